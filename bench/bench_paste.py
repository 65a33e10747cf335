"""The paste family: times beside torchvision, Detectron2's formula, OpenCV's loop, lsnms, OpenCV's
NMS, SAHI and ensemble-boxes, with equal answers; floors, threads and memory.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import peers
import pytest
import records
import workload
from conftest import RECORDS, fastest

import cellpost


@pytest.fixture(scope="session", params=workload.PASTE_SHAPES)
def work(request):
    """Simulated detections on one image."""
    side = max(workload.PASTE_SHAPES[request.param])
    if side > request.config.getoption("--max-size"):
        pytest.skip(f"{side} pixels a side are more than --max-size")
    made = workload.make_paste(request.param)
    request.config.stash[RECORDS].notes.add(f"mask crops (28 x 28) simulated from {made.source}")
    return made


def composed(insides, work):
    """The naive label image: each instance's pixels over those of worse ones."""
    labels = np.zeros(work.labels.shape, np.int32)
    for i in np.argsort(work.scores, kind="stable"):
        (y, x), inside = insides(i)
        labels[y : y + inside.shape[0], x : x + inside.shape[1]][inside] = i + 1
    return cellpost.relabel(labels)


def test_paste_masks(measure, device, work):
    put = [device.put(a) for a in (work.masks, work.boxes, work.scores)]
    read, written = work.masks.nbytes, 4 * work.labels.size
    timing, labels = measure(
        "paste_masks",
        lambda: cellpost.paste_masks(*put, work.labels.shape),
        floor_bytes=2 * read + 2 * written,
    )
    labels = device.get(labels)
    assert 0.8 * work.n_cells < labels.max() <= work.n_cells
    if work.size == "500":
        torch = pytest.importorskip("torch", reason="torch, for Detectron2's formula, is missing")
        torch.set_num_threads(cellpost.get_num_threads())
        timing.peer_seconds, (pasted, corners) = fastest(
            lambda: peers.detectron2_paste_cpu(work.masks, work.boxes, work.labels.shape), 1
        )
        timing.peer = "Detectron2's formula"
        np.testing.assert_array_equal(
            labels,
            composed(lambda i: (corners[i][0], pasted[i][corners[i][1]]), work),
        )
        timing.agrees = "labels identical"
    elif work.size == "20000":
        pytest.importorskip("cv2", reason="OpenCV, the peer of this comparison, is not installed")
        timing.peer_seconds, theirs = fastest(
            lambda: peers.cv2_paste(work.masks, work.boxes, work.scores, work.labels.shape), 3
        )
        timing.peer = "loop over cv2.resize"
        # it rounds boxes to whole pixels
        share = np.count_nonzero((labels > 0) & (theirs > 0)) / np.count_nonzero(labels)
        assert share > 0.9
        timing.agrees = f"{100 * share:.0f} % of the pixels"
    elif work.size == "100000":
        timing.peer_seconds, _ = fastest(lambda: read_and_write_twice(work), 3)
        timing.peer = "NumPy reading and writing twice"


def read_and_write_twice(work):
    """What the goal is set by: the input read twice, a new label image written twice."""
    labels = np.empty(work.labels.shape, np.int32)
    for value in (1, 2):
        work.masks.max()
        labels[...] = value
    return labels


# torchvision takes 8 N H W bytes: 500 instances do not fit into 24 GB
@pytest.mark.parametrize("work", ["100"], indirect=True)
def test_paste_masks_torchvision(measure, device, work):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    heads = peers.torchvision_heads()
    put = [device.put(a) for a in (work.masks, work.boxes, work.scores)]
    timing, labels = measure(
        "paste_masks style='torchvision'",
        lambda: cellpost.paste_masks(*put, work.labels.shape, style="torchvision"),
    )
    masks, boxes = torch.from_numpy(work.masks[:, None]), torch.from_numpy(work.boxes)
    timing.peer_seconds, pasted = fastest(
        lambda: heads.paste_masks_in_image(masks, boxes, work.labels.shape), 1
    )
    timing.peer = "torchvision"
    insides = pasted[:, 0] >= 0.5
    expected = composed(lambda i: ((0, 0), insides[i].numpy()), work)
    np.testing.assert_array_equal(device.get(labels), expected)
    timing.agrees = "labels identical"


# ---- suppression, merging, fusion ---------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call on boxes, and its peer."""

    name: str
    n: int
    views: int
    run: object
    peer: str
    module: str
    peer_run: object
    check: object


def _rects(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()


def _nms(boxes, scores):
    return cellpost.nms(boxes, scores, 0.5)


def _lsnms(boxes, scores):
    import lsnms

    return lsnms.nms(boxes.astype(float), scores.astype(float), iou_threshold=0.5)


def _opencv(boxes, scores):
    import cv2

    return cv2.dnn.NMSBoxes(_rects(boxes), scores.tolist(), 0.0, 0.5)


def _sahi(boxes, scores):
    from sahi.postprocess.combine import greedy_nmm

    rows = np.column_stack([boxes, scores, np.zeros(len(boxes), np.float32)])
    return sorted(greedy_nmm(rows, "IOS", 0.5))


def _models(boxes, scores):
    """As ensemble-boxes wants them: in 0..1, from five models."""
    boxes = np.clip(boxes.astype(float) / max(workload.SLIDE_SHAPE), 0, 1)
    return np.split(boxes, 5), np.split(scores.astype(float), 5)


def _ensemble_boxes(boxes, scores):
    import ensemble_boxes

    boxes, scores = _models(boxes, scores)
    classes = [np.zeros(len(s), int) for s in scores]
    return ensemble_boxes.weighted_boxes_fusion(boxes, scores, classes)


def _same_rows(ours, theirs):
    np.testing.assert_array_equal(ours, theirs)
    return "rows identical"


def _almost_the_same_rows(ours, theirs):
    # in float64, and at the threshold otherwise than torchvision
    assert len(set(ours.tolist()) ^ set(np.asarray(theirs).tolist())) <= 1e-3 * len(ours)
    return "rows but for rounding"


def _same_boxes(ours, theirs):
    # equal scores come in any order
    ours, theirs = (np.column_stack([r[1], r[0]]).round(6) for r in (ours, theirs))
    np.testing.assert_array_equal(
        *(np.sort(rows.view("f8,f8,f8,f8,f8"), 0) for rows in (ours, theirs))
    )
    return "within 1e-6"


_NMS = (_nms, "lsnms", "lsnms", _lsnms, _almost_the_same_rows)
CALLS = [
    Call("nms, 8 views", 12_500, 8, *_NMS),
    Call("nms, no duplicates", 100_000, 1, *_NMS),
    Call("nms, 8 views", 12_500, 8, _nms, "cv2.dnn.NMSBoxes", "cv2", _opencv, _NMS[-1]),
    Call(
        "nmm, 8 views",
        1_250,
        8,
        lambda b, s: cellpost.nmm(b, s, 0.5)[2],
        "SAHI",
        "sahi",
        _sahi,
        lambda ours, theirs: _same_rows(np.sort(ours), theirs),
    ),
    Call(
        "weighted_boxes_fusion, 5 models",
        10_000,
        5,
        lambda b, s: cellpost.weighted_boxes_fusion(*_models(b, s)),
        "ensemble-boxes",
        "ensemble_boxes",
        _ensemble_boxes,
        _same_boxes,
    ),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda c: f"paste {c.name} {c.peer}")
@pytest.mark.filterwarnings("ignore")
def test_boxes_paste(benchmark, recorded, call, device):
    pytest.importorskip(call.module, reason=f"{call.peer} is not installed")
    boxes, scores = workload.make_boxes(call.n, call.views)
    if call.name.startswith("weighted") and device.name == "cuda":
        pytest.skip("runs on the host, wherever the boxes are")
    put = device.put(boxes), device.put(scores)

    def once():
        result = call.run(*put)
        device.synchronize()
        return result

    ours = benchmark.pedantic(once, rounds=7, warmup_rounds=1)
    start = time.perf_counter()
    theirs = call.peer_run(boxes, scores)
    seconds = time.perf_counter() - start
    if seconds < 2:  # a first call may compile; the slow ones run once
        seconds, theirs = fastest(lambda: call.peer_run(boxes, scores), 3)
    timing = records.Timing(
        call.name,
        f"{len(boxes)} boxes",
        device.name,
        call.n,
        len(boxes),
        benchmark.stats.stats.min if benchmark.stats else fastest(once, 1)[0],
        7,
        peer=call.peer,
        peer_seconds=seconds,
    )
    host = ours if call.name.startswith("weighted") else device.get(ours)
    timing.agrees = call.check(host, theirs)
    recorded.timings.append(timing)


def test_mask_nms(measure, device, work):
    put = [device.put(a) for a in (work.masks, work.boxes, work.scores)]
    _, keep = measure("mask_nms", lambda: cellpost.mask_nms(*put, work.labels.shape, 0.3))
    assert 0 < len(keep) <= work.n_cells


def test_threads(measure_threads, work):
    measure_threads(
        "paste_masks",
        lambda: cellpost.paste_masks(work.masks, work.boxes, work.scores, work.labels.shape),
    )


def test_memory(measure_memory, work):
    shape = np.array(work.labels.shape)
    found = measure_memory("paste_masks", work.masks, work.boxes, work.scores, shape)
    # the goal: besides the result an int32 image and 64 bytes an instance; a megabyte of noise
    assert found["extra_bytes"] <= 2 * found["result_bytes"] + 64 * work.n_cells + 2**20
