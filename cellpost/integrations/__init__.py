"""Functions of other packages, with their arguments, made of this package's parts.

Nothing is imported here: take the module of the package in question, as
``from cellpost.integrations.monai import sliding_window_inference``.
"""
