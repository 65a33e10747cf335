"""Peak extra memory of one call, in a process of its own: python memory.py CALL dP.npy cellprob.npy

CALL is follow_flows or masks_to_flows (whose second file holds labels). Prints JSON: bytes that the
call added to the resident set at its peak, outputs included, and the size of dP.
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


def main(call, dP_file, second_file):
    """Measure one call."""
    dP, second = np.load(dP_file), np.load(second_file)
    small = dP[:, :64, :64].copy(), second[:64, :64].copy()
    if call == "follow_flows":
        cellpost.follow_flows(*small)  # loads what a first call loads
        before = _now_and_reset_peak()
        result = cellpost.follow_flows(dP, second)
    else:
        cellpost.masks_to_flows(small[1])
        before = _now_and_reset_peak()
        result = cellpost.masks_to_flows(second)
    extra = _peak() - before
    print(json.dumps({"extra_bytes": extra, "dP_bytes": dP.nbytes, "largest": float(result.max())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
