"""How good a segmentation is: matching, scores per image and pooled, reliability, seams, time.

Everything here compares label images by the pixels that their objects share, counted once
(`cellpost.overlap_counts`); no table of all pairs of objects is ever made.
"""

from cellpost.metrics.budget import time_tolerance, within_budget
from cellpost.metrics.evaluation import Evaluation, evaluate
from cellpost.metrics.matching import (
    AP_IOUS,
    Match,
    average_precision,
    challenge_match,
    f1,
    match,
    panoptic_quality,
    pooled,
)
from cellpost.metrics.regions import aggregated_jaccard, count_error, dice, n_cells
from cellpost.metrics.reliability import Reliability, confident, rank_by_reliability, stability
from cellpost.metrics.seams import SeamScore, seam_score

__all__ = [
    "AP_IOUS",
    "Evaluation",
    "Match",
    "Reliability",
    "SeamScore",
    "aggregated_jaccard",
    "average_precision",
    "challenge_match",
    "confident",
    "count_error",
    "dice",
    "evaluate",
    "f1",
    "match",
    "n_cells",
    "panoptic_quality",
    "pooled",
    "rank_by_reliability",
    "seam_score",
    "stability",
    "time_tolerance",
    "within_budget",
]
