"""What a run measured: rows for the tables of the terminal summary and for bench/results/*.json."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cellpost

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Timing:
    """One call at one size; seconds are minima of the rounds."""

    call: str
    size: str
    device: str
    n_cells: int
    n_foreground: int
    seconds: float
    rounds: int
    peer: str | None = None
    peer_seconds: float | None = None
    agrees: str = ""
    # The least that any implementation has to do, and what the call does without shortcuts.
    floor_bytes: int | None = None
    operations: int | None = None

    @property
    def ratio(self):
        return self.peer_seconds / self.seconds if self.peer_seconds else None


@dataclass
class Records:
    """Everything that one run of the benchmarks found out."""

    timings: list[Timing] = field(default_factory=list)
    threads: list[dict] = field(default_factory=list)
    memory: list[dict] = field(default_factory=list)
    bandwidth: dict[str, float] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)


def _first_line(path, start):
    try:
        return next(s for s in Path(path).read_text().splitlines() if s.startswith(start))
    except (OSError, StopIteration):
        return ""


def _git(*args):
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment():
    """Hardware, commit, command and versions of this run."""
    info = cellpost.info()
    cpu = _first_line("/proc/cpuinfo", "model name").partition(":")[2].strip()
    memory = _first_line("/proc/meminfo", "MemTotal:").split()
    affinity = getattr(os, "sched_getaffinity", None)
    packages = (
        "numpy",
        "scipy",
        "torch",
        "cupy-cuda13x",
        "cellpose",
        "scikit-image",
        "opencv-python-headless",
        "monai",
        "connected-components-3d",
        "torchvision",
        "lsnms",
        "sahi",
        "stardist",
        "ensemble-boxes",
        "pytest-benchmark",
    )
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") or None,
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": " ".join(["pytest", *sys.argv[1:]]),
        "hardware": {
            "cpu": cpu or platform.processor() or platform.machine(),
            "cpus": len(affinity(0)) if affinity else os.cpu_count(),
            "memory_bytes": int(memory[1]) * 1024 if memory else None,
            "gpus": info["cuda_devices"],
        },
        "cellpost": {k: info[k] for k in ("version", "cpu_level", "num_threads", "cuda_built")},
        "versions": {
            "python": platform.python_version(),
            **{p: v for p in packages if (v := _version(p))},
        },
    }


def save(records, keyword=""):
    """Write bench/results/<card or CPU>-<date>[-<keyword of pytest -k>].json; returns its path."""
    about = environment()
    hardware = about["hardware"]
    on_gpu = any(t.device == "cuda" for t in records.timings)
    card = hardware["gpus"][0] if on_gpu and hardware["gpus"] else hardware["cpu"]
    name = f"{re.sub(r'[(].*?[)]', '', card) or 'cpu'}-{about['date'][:10]}-{keyword}"
    name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = ROOT / "bench" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    timings = [{**asdict(t), "ratio": t.ratio} for t in records.timings]
    content = {
        **about,
        "timings": timings,
        "threads": records.threads,
        "memory": records.memory,
        "copy_bandwidth_bytes_per_second": records.bandwidth,
        "notes": sorted(records.notes),
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


# ---- tables -------------------------------------------------------------------------------------


def _seconds(s):
    if s is None:
        return ""
    return f"{s:.2f} s" if s >= 1 else f"{1e3 * s:.3g} ms"


def _table(title, head, rows):
    rows = [head, *[[str(c) for c in row] for row in rows]]
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return [title, lines[0], "-" * len(lines[0]), *lines[1:], ""]


def lines(records):
    """Return the tables as lines of text."""
    out = []
    if records.timings:
        head = [
            "call",
            "size",
            "device",
            "cells",
            "time",
            "ns/px*",
            "peer",
            "peer time",
            "ratio",
            "agree",
        ]
        rows = [
            [
                t.call,
                t.size,
                t.device,
                t.n_cells,
                _seconds(t.seconds),
                f"{1e9 * t.seconds / t.n_foreground:.1f}",
                t.peer or "",
                _seconds(t.peer_seconds),
                f"{t.ratio:.1f}x" if t.ratio else "",
                t.agrees,
            ]
            for t in records.timings
        ]
        out += _table("times (minimum of the rounds; * per foreground pixel)", head, rows)
    counted = [t for t in records.timings if t.floor_bytes]
    if counted and records.bandwidth:
        head = [
            "call",
            "size",
            "device",
            "bytes",
            "at copy speed",
            "time / that",
            "operations",
            "G/s",
        ]
        rows = []
        for t in counted:
            least = t.floor_bytes / records.bandwidth[t.device]
            rows.append(
                [
                    t.call,
                    t.size,
                    t.device,
                    f"{t.floor_bytes / 1e6:.1f} MB",
                    _seconds(least),
                    f"{t.seconds / least:.1f}",
                    f"{t.operations:.3g}" if t.operations else "",
                    f"{t.operations / t.seconds / 1e9:.1f}" if t.operations else "",
                ]
            )
        speeds = ", ".join(f"{d} {b / 1e9:.1f} GB/s" for d, b in records.bandwidth.items())
        out += _table(f"floors (copy speed measured in this run: {speeds})", head, rows)
    if records.threads:
        head = ["call", "size", "1 thread", "threads", "time", "ratio"]
        rows = [
            [
                r["call"],
                r["size"],
                _seconds(r["seconds_1"]),
                r["threads"],
                _seconds(r["seconds_n"]),
                f"{r['seconds_1'] / r['seconds_n']:.2f}x",
            ]
            for r in records.threads
        ]
        out += _table("threads", head, rows)
    if records.memory:
        head = ["call", "size", "extra at the peak", "a pixel", "of it the result"]
        rows = [
            [
                r["call"],
                r["size"],
                f"{r['extra_bytes'] / 1e6:.1f} MB",
                f"{r['extra_bytes'] / r['pixels']:.1f} bytes",
                f"{r['result_bytes'] / r['pixels']:.1f} bytes",
            ]
            for r in records.memory
        ]
        out += _table("peak extra memory, outputs included, in a fresh process", head, rows)
    return out + sorted(records.notes)
