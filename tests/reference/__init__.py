"""Slow, obvious NumPy oracles of what cellpost computes; they share no code with it."""
