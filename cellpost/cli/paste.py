"""The `paste` command: detections in, labels and their table out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import cellpost
from cellpost._arrays import to_host
from cellpost.cli.job import Device, Inputs, LabelJob, Run
from cellpost.cli.options import OutDtype, Output, Overwrite, Quiet, Report, Threads, Where
from cellpost.io import read_detections
from cellpost.segment_heads import InstanceReport


class PasteStyle(str, Enum):
    """How crops are resized to their boxes."""

    detectron2 = "detectron2"
    torchvision = "torchvision"
    nearest = "nearest"


def paste(
    detections: Annotated[
        Path,
        typer.Argument(
            metavar="DETECTIONS",
            help=".npz with boxes (x0, y0, x1, y1), scores, masks and, if there are any, "
            "mask_boxes, class_ids, shape; or COCO's JSON with masks in run-length encoding.",
        ),
    ],
    output: Output,
    image: Annotated[
        Path | None, typer.Option(help="Picture to draw the overlay on; without it, black.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="PNG to write with every cell outlined.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="JSON to write: input row, score, class, box, area of each label."),
    ] = None,
    report: Report = None,
    shape: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Of the image, where the file does not say it."),
    ] = None,
    image_id: Annotated[
        str | None, typer.Option(help="Which image of a JSON file of several.")
    ] = None,
    nms: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="First drop instances whose pixels overlap a better one's by more than this IoU.",
            show_default="none dropped",
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Smallest value of an instance's pixels.")] = 0.5,
    min_score: Annotated[float, typer.Option(help="Instances of a lower score are dropped.")] = 0.0,
    min_size: Annotated[
        int, typer.Option(help="Instances of fewer visible pixels are dropped.")
    ] = 0,
    style: Annotated[
        PasteStyle,
        typer.Option(help="How crops are resized; torchvision's way moves masks of whole pixels."),
    ] = PasteStyle.detectron2,
    out_dtype: OutDtype = None,
    device: Where = Device.auto,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Boxes, mask crops and scores to a label image."""
    options = {
        "threshold": threshold,
        "min_score": min_score,
        "min_size": min_size,
        "style": style.value,
        "nms": nms,
        "out_dtype": out_dtype,
    }
    run = Run((detections, image), output, report, device, threads, overwrite, quiet)
    job = LabelJob(run, image, overlay, out_dtype)
    work = Pasting(detections, shape, image_id)
    extra = {} if table is None else {table: work.table}
    job.run("pasting", work.paste_masks, options, work.read, count_pasted, extra)


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
        return Inputs((masks, boxes, found.scores), black, shape, noted)

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


def count_pasted(report: cellpost.PasteReport) -> tuple[int, dict[str, int]]:
    """Labels, and what was dropped."""
    dropped = {
        "low score": report.n_low_score,
        "without area": report.n_degenerate,
        "outside": report.n_outside,
        "hidden": report.n_hidden,
        "too small": report.n_too_small,
    }
    if isinstance(report, InstanceReport):
        dropped["found again"] = report.n_duplicates
        dropped["of another size"] = report.n_small_boxes + report.n_large_boxes
    if isinstance(report, SuppressedReport):
        dropped["overlapping"] = report.n_overlapping
    return report.n_labels, dropped
