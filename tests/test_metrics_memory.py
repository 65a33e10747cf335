"""A million cells against a million: what metrics take besides their inputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CLEAR_REFS = Path("/proc/self/clear_refs")
CALLS = {
    "match": "metrics.match(true, pred, 0.5).tp",
    "match below 0.5": "metrics.match(true, pred, 0.3).tp",
    "panoptic_quality": "metrics.panoptic_quality(true, pred)",
    "average_precision": "metrics.average_precision(true, pred)",
    "aggregated_jaccard": "metrics.aggregated_jaccard(true, pred)",
    "aggregated_jaccard_plus": "metrics.aggregated_jaccard(true, pred, unique=True)",
    "dice": "metrics.dice(true, pred)",
    "evaluate": "metrics.evaluate([(true, pred)], [0.5, 0.3]).pooled['tp'].tolist()",
    "stability": "metrics.stability([pred, true])",
}
N = 1024**2
# Cells of 3 x 3 pixels, of which the same with other ids share 6: IoU 6 / 12, Dice 12 / 18.
EXPECTED = {
    "match": N,
    "match below 0.5": N,
    "panoptic_quality": 0.5,
    "average_precision": 0.1,
    "aggregated_jaccard": 0.5,
    "aggregated_jaccard_plus": 0.5,
    "dice": 12 / 18,
    "evaluate": [N, N],
    "stability": 1.0,
}
# A process of its own: its peak is counted from when the inputs are there.
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from cellpost import metrics

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(s for s in lines if s.startswith(field)).split()[1])

at, inside = np.arange(4096) // 4, np.arange(4096) % 4 < 3
labels = (at[:, None] * 1024 + at + 1).astype(np.int32) * (inside[:, None] & inside)
order = np.append(0, np.random.default_rng(5).permutation(1024**2) + 1).astype(np.int32)
images = labels, np.roll(order[labels], 1, 1)
true, pred = (image[:64, :64].copy() for image in images)
eval(sys.argv[1])  # what a first call loads
true, pred = images
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
answer = eval(sys.argv[1])
print(json.dumps([answer, resident("VmHWM") - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="peaks of memory are read from Linux's /proc")
@pytest.mark.parametrize("name", CALLS)
def test_a_million_cells_take_less_than_200_mb(name):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, CALLS[name]], check=True, capture_output=True, text=True
    )
    answer, extra = json.loads(done.stdout)
    assert answer == pytest.approx(EXPECTED[name], abs=1e-12)
    assert extra < 200e6, f"{extra / 1e6:.0f} MB"
