"""The work of `cellpost paste`: detections in, labels and their table out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cellpost
from cellpost._arrays import to_host
from cellpost._job import Inputs
from cellpost.io import read_detections


@dataclass(frozen=True)
class SuppressedReport(cellpost.PasteReport):
    """What became of the instances, where those that overlap went first."""

    n_overlapping: int


class Pasting:
    """Detections of one image; each step keeps what the next ones need."""

    def __init__(self, path: Path, shape: tuple[int, int] | None, image_id: str | None) -> None:
        self._path = path
        self._told = shape
        self._image_id = image_id

    def read(self) -> Inputs:
        """Read what is pasted, and on an image of which shape."""
        found, shape = read_detections(self._path, image_id=self._image_id, shape=self._told)
        if shape is None:
            raise ValueError(
                f"{self._path}: expected the image's shape, which it lacks: give --shape H W"
            )
        if found.masks is None and len(found):
            raise ValueError(
                f"{self._path}: expected masks, which are what is pasted; got boxes without any"
            )
        self._found, self._shape = found, shape
        masks = [] if found.masks is None else found.masks
        boxes = found.boxes if found.mask_boxes is None else found.mask_boxes
        black = np.broadcast_to(np.uint8(0), shape)
        noted = {"detections": str(self._path), "image_id": self._image_id, "shape": shape}
        return Inputs((masks, boxes, found.scores), black, noted)

    def paste_masks(
        self, masks: Any, boxes: Any, scores: Any, *, nms: float | None, **options: Any
    ) -> tuple[Any, cellpost.PasteReport]:
        """Paste, after the suppression if that is asked for."""
        found = cellpost.Detections(boxes, scores, masks)
        rows = np.arange(len(found))
        if nms is not None:
            same = {name: options[name] for name in ("threshold", "style")}
            kept = cellpost.mask_nms(masks, boxes, scores, self._shape, nms, **same)
            rows = np.sort(to_host(kept))  # of equal scores the first row is still the better one
            found = found[rows]
        labels, index, report = cellpost.paste_masks(
            found.masks, found.boxes, found.scores, self._shape, **options, return_index=True
        )
        self._index = rows[to_host(index)]
        if nms is not None:
            n = len(scores)
            counts = {**asdict(report), "n_instances": n, "n_overlapping": n - len(rows)}
            report = SuppressedReport(**counts)
        return labels, report

    def count(self, report: cellpost.PasteReport) -> tuple[int, dict[str, int]]:
        """Labels, and what was dropped."""
        dropped = {
            "low score": report.n_low_score,
            "without area": report.n_degenerate,
            "outside": report.n_outside,
            "hidden": report.n_hidden,
            "too small": report.n_too_small,
        }
        if isinstance(report, SuppressedReport):
            dropped["overlapping"] = report.n_overlapping
        return report.n_labels, dropped

    def table(self, labels: Any) -> bytes:
        """List the labels as JSON."""
        cells = cellpost.properties(labels)
        columns = {
            "label": cells["label"],
            "row": self._index,
            "score": self._found.scores[self._index],
        }
        if self._found.class_ids is not None:
            columns["class_id"] = self._found.class_ids[self._index]
        columns["bbox"] = cells["bbox"][:, [1, 0, 3, 2]]  # x first, as boxes are
        columns["area"] = cells["area"]
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return json.dumps([dict(zip(columns, row, strict=True)) for row in rows]).encode()
