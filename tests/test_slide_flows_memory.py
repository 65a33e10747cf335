"""What follow_flows of a slide takes beside its arrays, and that it is right at that size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CLEAR_REFS = Path("/proc/self/clear_refs")
SIDE = 8192
LIMIT = 300 * 10**6
# A process of its own. The image is a tile of cells, repeated, and is made where it is read, so
# that no copy of it counts; the labels go to a file.
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import cellpost, simulate
from cellpost import slide

class Repeated:
    def __init__(self, tile, side):
        self.tile, self.dtype = tile, tile.dtype
        self.shape = (*tile.shape[:-2], side, side)
    def __getitem__(self, key):
        *_, y, x = key
        rows, cols = (np.arange(s.start, s.stop) % self.tile.shape[-1] for s in (y, x))
        return self.tile[..., rows[:, None], cols]

class File:
    def __init__(self, path, side):
        self.file, self.shape, self.dtype = open(path, "w+b"), (side, side), np.dtype(np.int32)
    def __setitem__(self, key, labels):
        y, x = key
        for row, line in zip(range(y.start, y.stop), labels):
            self.file.seek(4 * (row * self.shape[1] + x.start))
            self.file.write(line.tobytes())

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(s for s in lines if s.startswith(field)).split()[1])

folder, side, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
maps = simulate.from_labels(
    simulate.blobs((500, 500), 500, radius=(5, 13)), noise=0.7, cellprob_noise=3
)
slide.follow_flows(maps.dP, maps.cellprob, np.zeros((500, 500), int), block=100)  # what it loads
dP, cellprob = Repeated(maps.dP, side), Repeated(maps.cellprob, side)
out = File(folder / "labels", side)
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
n = slide.follow_flows(dP, cellprob, out, memory=limit, scratch=folder)
extra = resident("VmHWM") - before
out.file.flush()
whole = (slice(0, side), slice(0, side))
expected = cellpost.follow_flows(dP[(slice(None), *whole)], cellprob[whole])
labels = np.fromfile(folder / "labels", np.int32).reshape(side, side)
left = [path.name for path in folder.iterdir()]
print(json.dumps([extra, n, int(expected.max()), bool(np.array_equal(labels, expected)), left]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="peaks of memory are read from Linux's /proc")
def test_memory_is_bounded_and_the_labels_of_67_megapixels_are_right(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}", prepend=":")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(SIDE), str(LIMIT)],
        check=True,
        capture_output=True,
        text=True,
    )
    extra, n, n_expected, same, left = json.loads(done.stdout)
    assert same
    assert n == n_expected > 50_000
    assert left == ["labels"]
    assert extra < 1.25 * LIMIT, f"{extra / 1e6:.0f} MB"
    assert extra > 0.5 * LIMIT, "the limit is not made use of"
