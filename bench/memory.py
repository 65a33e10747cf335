"""Peak extra memory of one call, in a process of its own: python memory.py CALL A.npy [B.npy ...]

CALL is a function of cellpost, as metrics.match, that takes these arrays; of paste_masks the last
one is the shape, of stitch_labels the shape and the tiles' overlap.
Stitcher takes height, width and overlap: tiles come in order, and bands are let go. Prints JSON:
bytes that the call added to the resident set at its peak, outputs included, and the size of its
first array and of its result.
"""

from __future__ import annotations

import functools
import json
import resource
import sys
from pathlib import Path

import numpy as np

import cellpost

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status_bytes(field):
    line = next(s for s in STATUS.read_text().splitlines() if s.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def _now_and_reset_peak():
    """Resident bytes now; the peak is counted from here on."""
    try:
        CLEAR_REFS.write_text("5")
        return _status_bytes("VmRSS")
    except OSError:  # no /proc: the peak so far, which the set-up below keeps close to what is held
        return _peak()


def _peak():
    if STATUS.exists():
        return _status_bytes("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def stream(layout):
    """Blend tiles of three channels, four at a time, and keep nothing of the map."""
    shape, overlap = layout[:2].astype(int), layout[2]
    grid = cellpost.TileGrid(shape, tile=512, overlap=overlap)
    stitcher = cellpost.Stitcher(grid, 3)
    tiles = np.ones((4, 3, 512, 512), np.float32)
    n_rows = 0
    for first in range(0, len(grid), 4):
        indices = range(first, min(first + 4, len(grid)))
        stitcher.add(indices, tiles[: len(indices)])
        n_rows += sum(band.shape[1] for _, band in stitcher.ready())
    assert n_rows == shape[0]


def merged(tiles, layout):
    """Put label tiles together."""
    grid = cellpost.TileGrid(layout[:2].astype(int), tile=tiles.shape[1:], overlap=layout[2])
    return cellpost.stitch_labels(tiles, grid)


def main(call, *files):
    """Measure one call."""
    arrays = [np.load(file) for file in files]
    special = {"Stitcher": stream, "stitch_labels": merged}
    function = special.get(call) or functools.reduce(getattr, call.split("."), cellpost)
    if call == "Stitcher":
        stream(np.array([600, 600, 0.6]))
    elif call == "paste_masks":
        arrays[-1] = tuple(arrays[-1].tolist())
        function(*(a[:9] for a in arrays[:-1]), (64, 64))
    elif call == "stitch_labels":
        function(arrays[0][:4, :64, :64].copy(), np.array([96, 96, 0.5]))
    else:
        function(*(a[..., :64, :64].copy() for a in arrays))  # loads what a first call loads
    before = _now_and_reset_peak()
    result = function(*arrays)
    extra = _peak() - before
    is_array = hasattr(result, "nbytes")
    print(
        json.dumps(
            {
                "extra_bytes": extra,
                "input_bytes": arrays[0].nbytes,
                "result_bytes": result.nbytes if is_array else 0,
                "pixels": int(
                    np.prod(
                        arrays[0][:2]
                        if result is None
                        else (result if is_array else arrays[0]).shape[-2:]
                    )
                ),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
