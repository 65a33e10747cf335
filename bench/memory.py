"""Peak extra memory of one call, in a process of its own: python memory.py CALL A.npy [B.npy ...]

CALL is a function of cellpost that takes these arrays; of paste_masks the last one is the shape.
Prints JSON: bytes that the call added to the resident set at its peak, outputs included, and the
size of its first array and of its result.
"""

from __future__ import annotations

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


def main(call, *files):
    """Measure one call."""
    arrays = [np.load(file) for file in files]
    function = getattr(cellpost, call)
    if call == "paste_masks":
        arrays[-1] = tuple(arrays[-1].tolist())
        function(*(a[:9] for a in arrays[:-1]), (64, 64))
    else:
        function(*(a[..., :64, :64].copy() for a in arrays))  # loads what a first call loads
    before = _now_and_reset_peak()
    result = function(*arrays)
    extra = _peak() - before
    print(
        json.dumps(
            {
                "extra_bytes": extra,
                "input_bytes": arrays[0].nbytes,
                "result_bytes": result.nbytes,
                "pixels": int(np.prod(result.shape[-2:])),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
