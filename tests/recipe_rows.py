"""Rows of the tables of five published systems, and which of them have a test that names them."""

from __future__ import annotations

ROWS = {
    "A. MEDIAR": (
        "preprocessing",
        "tile inference",
        "test-time augmentation",
        "ensemble",
        "heads",
        "mask clean-up before tracking",
        "gradient flow tracking",
        "quality control",
        "whole slides",
        "evaluation",
        "targets",
    ),
    "B. VSM": (
        "preprocessing",
        "windows",
        "detection TTA",
        "box filters",
        "per-box masks",
        "merging windows",
        "cost",
    ),
    "C. Train4Ever": (
        "patch-size selection (Algorithm 1)",
        "gate (Algorithm 2)",
        "memory-light pasting",
        "what its authors wanted and did not have",
        "pseudo-labels",
        "detector settings",
    ),
    "D. HoVer-Net": (
        "heads",
        "foreground",
        "instance border",
        "distance map",
        "markers",
        "watershed",
        "reliability (ST++)",
    ),
    "E. Sartorius": (
        "windows",
        "Cellpose TTA",
        "flow settings",
        "Mask R-CNN",
        "ensemble",
        "evaluation",
    ),
}

tested: set[tuple[str, str]] = set()


def row(system, step):
    """Mark a test as one of a row."""
    if step not in ROWS[system]:
        raise ValueError(f"step: expected one of {ROWS[system]}; got {step!r}")
    tested.add((system, step))
    return lambda test: test
