"""Suppression, merging and fusion of detections: each box after the other, against all others."""

from __future__ import annotations

import numpy as np


def overlap(boxes, i, j, metric="iou"):
    """Overlap of two boxes in their own dtype, as torchvision computes it; 0 where undefined."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    zero = boxes.dtype.type(0)
    w = max(zero, min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0]))
    h = max(zero, min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1]))
    if w <= 0 or h <= 0:
        return zero
    inter = w * h
    whole = areas[i] + areas[j] - inter if metric == "iou" else min(areas[i], areas[j])
    return inter / whole


def suppress(n, scores, exceeds):
    """Rows that stay, best first; `exceeds(better, other)` says what goes."""
    keep = []
    for i in sorted(range(n), key=lambda i: (-scores[i], i)):
        if not any(exceeds(k, i) for k in keep):
            keep.append(i)
    return keep


def nms(boxes, scores, threshold, metric="iou", class_ids=None):
    """Rows that `cellpost.nms` keeps."""

    def exceeds(better, other):
        alike = class_ids is None or class_ids[better] == class_ids[other]
        return alike and float(overlap(boxes, better, other, metric)) > threshold

    return suppress(len(boxes), scores, exceeds)


def mask_nms(insides, scores, threshold, metric="iou", class_ids=None):
    """Rows that `cellpost.mask_nms` keeps, from the pixels of each instance, (N, H, W) bool."""
    areas = insides.sum((1, 2))

    def exceeds(better, other):
        inter = int((insides[better] & insides[other]).sum())
        a, b = int(areas[better]), int(areas[other])
        alike = class_ids is None or class_ids[better] == class_ids[other]
        return alike and inter > threshold * (a + b - inter if metric == "iou" else min(a, b))

    return suppress(len(insides), scores, exceeds)


def nmm(boxes, scores, threshold, metric="ios", class_ids=None):
    """(merged boxes, keep, group) of `cellpost.nmm`."""
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    group, keep, merged = [-1] * len(boxes), [], []
    for i in order:
        if group[i] >= 0:
            continue
        group[i] = len(keep)
        keep.append(i)
        grown = boxes[i].astype(float)
        for j in order:
            alike = class_ids is None or class_ids[i] == class_ids[j]
            limit = boxes.dtype.type(threshold)
            share = overlap(boxes, i, j, metric)
            if group[j] >= 0 or not alike or not (share > 0 and share >= limit):
                continue
            group[j] = group[i]
            if overlap(np.stack([grown, boxes[j].astype(float)]), 0, 1, metric) >= threshold:
                low, high = np.minimum(grown, boxes[j]), np.maximum(grown, boxes[j])
                grown = np.concatenate([low[:2], high[2:]])
        merged.append(grown)
    return np.array(merged).reshape(-1, 4), keep, group
