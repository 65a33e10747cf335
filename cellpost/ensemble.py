"""What several models found in one image, made one answer.

`fuse` works on finished instances: those of different models that overlap enough are one cell.
`mean_maps` works a step earlier, on flow or probability maps that are averaged before instances are
made of them: for models that put out the same kind of map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellpost import _core
from cellpost._arrays import Array, Arrays, dtype_name, to_host
from cellpost.labels import integer, number
from cellpost.overlaps import ObjectPairs, count_pairs

__all__ = ["FuseReport", "fuse", "mean_maps"]

_CHUNK = 2**18  # pixels that are worked on at once
_BITS = 40  # of the shares that confidences are counted in


@dataclass(frozen=True)
class FuseReport:
    """What became of the instances of the models.

    Attributes
    ----------
    n_instances : tuple of int
        Instances of each model.
    n_cells : int
        Different cells that they are.
    n_matched : int
        Cells that more than one model found.
    n_low : int
        Cells that one model found, dropped for their score.
    n_few_votes : int
        Cells dropped because too few models found them.
    n_empty : int
        Cells dropped because no pixel was left: none that enough of the members cover, or better
        cells lie on all of them.
    n_labels : int
        Cells in the result.
    """

    n_instances: tuple[int, ...]
    n_cells: int
    n_matched: int
    n_low: int
    n_few_votes: int
    n_empty: int
    n_labels: int


def fuse(
    models: Iterable[tuple[Array, Any]],
    iou_threshold: float = 0.15,
    mode: Literal["weighted", "vote", "best"] = "weighted",
    *,
    weights: Iterable[float] | None = None,
    score_threshold: float = 0.0,
    min_votes: int | None = None,
    out_dtype: Any = None,
    return_scores: bool = False,
    return_report: bool = False,
) -> Any:
    """Fuse the instances that several models found in one image.

    Parameters
    ----------
    models : iterable of (labels, scores)
        What each model found, one or more. `labels`: array, (H, W) or (D, H, W), any integer dtype,
        ids >= 0, gaps allowed; of one shape, library and device. `scores`: a confidence for each
        id, finite and >= 0: n numbers in ascending order of the n ids present, or a mapping from id
        to number (ids that are not there do not matter).
    iou_threshold : float
        Instances of two models whose intersection over union is above this may be one cell, 0 to 1.
    mode : {"weighted", "vote", "best"}
        Which pixels a cell has that several instances, its members, show. ``"weighted"``: those
        where members of at least half of the confidence of all its members lie. ``"vote"``: those
        where at least `min_votes` members lie; cells that fewer models found are dropped.
        ``"best"``: those of the member with the highest confidence.
    weights : iterable of float, optional
        Of each model, finite and > 0; 1 if not given. The confidence of an instance is its score
        times the weight of its model.
    score_threshold : float
        A cell that only one model found is kept if its score is at least this; every one is if not
        given.
    min_votes : int, optional
        With ``"vote"``, 1 to the number of models; more than half of them if not given.
    out_dtype : dtype, optional
        Integer dtype of the labels; int32 if not given.
    return_scores : bool
        Return the scores, too.
    return_report : bool
        Return a report, too.

    Returns
    -------
    labels : array, (H, W) or (D, H, W)
        Labels 1..N in raster order of the cells' first pixels, 0 is background; new, of the kind
        and on the device of the first labels.
    scores : array, (N,), float64
        With `return_scores`, of each label; of the same kind and on the same device. The mean of
        its members' scores, weighted by `weights`; with ``"best"`` that of the member. A model that
        misses a cell does not lower its score: `score_threshold` and ``"vote"`` are what misses
        count for.
    report : FuseReport
        With `return_report`.

    Raises
    ------
    TypeError
        If labels are no arrays, not of an integer dtype or not of one library, scores or an option
        are no numbers, or `out_dtype` is no integer dtype.
    ValueError
        If there is no model, a model is no pair, shapes or devices differ, ids are negative, there
        is not one score for each id, or scores or an option are out of range.
    OverflowError
        If `out_dtype` cannot hold N.

    Notes
    -----
    Cells. Pairs of instances of different models above `iou_threshold` are gone through by
    descending IoU; each pair joins the cells of its two instances to one, unless that would have
    two instances of one model. So instances that are each other's best match are joined, then those
    that are among what is left, and so on. Pairs of equal IoU go by the better of their instances,
    then by the other one: better is the higher confidence, then the earlier model, then the lower
    id.

    Pixels. Confidences are counted in shares of 2**-40 of the power of two above the largest of
    their cell, so that no sum hangs on the order of the models; where all members have none, they
    count by the weights of their models. Two equally confident members together give their union:
    each has half. Where several cells claim a pixel, it goes to the one with the higher score, of
    equal ones to the one with the better best member. A cell without pixels is dropped, and told in
    the report; one that others cover in part keeps the rest, in one piece or not.

    An image without instances gives one without labels. Where no two IoUs, confidences or scores
    are equal, the order of the models does not show. Shared pixels are counted once for each two
    models, in sparse tables; one pass over the images in pieces, in which only pixels that the
    models differ in take longer. CUDA counts and paints the same; instances are matched on the
    host.

    This is the ensemble of System E of the Sartorius competition, whose two models, Cellpose and
    Mask R-CNN, are fused at IoU 0.15, for any number of models.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import ensemble
    >>> first = np.array([[1, 1, 1, 0, 0, 0, 2]])
    >>> second = np.array([[0, 7, 7, 7, 0, 0, 0]])
    >>> labels, scores = ensemble.fuse([(first, [0.5, 0.25]), (second, {7: 0.75})],
    ...                                return_scores=True)
    >>> labels.tolist(), scores.tolist()
    ([[0, 1, 1, 1, 0, 0, 2]], [0.625, 0.25])
    >>> ensemble.fuse([(first, [0.5, 0.25]), (second, {7: 0.75})], mode="vote").tolist()
    [[0, 1, 1, 0, 0, 0, 0]]
    """
    given = _pairs(models)
    arrays = Arrays(**{f"models[{i}]": labels for i, (labels, _) in enumerate(given)})
    images, of_rank = [], []
    for name in (f"models[{i}]" for i in range(len(given))):
        if tuple(arrays[name].shape) != tuple(arrays["models[0]"].shape):
            raise ValueError(
                f"{name}: expected the shape of models[0], {tuple(arrays['models[0]'].shape)}; "
                f"got {tuple(arrays[name].shape)}"
            )
        image, ids = arrays.int32_labels(name, to_write=False)
        images.append(image)
        of_rank.append(ids)
    threshold = number("iou_threshold", iou_threshold)
    if not 0 <= threshold <= 1:
        raise ValueError(f"iou_threshold: expected 0 to 1; got {iou_threshold!r}")
    if mode not in ("weighted", "vote", "best"):
        raise ValueError(f"mode: expected one of 'weighted', 'vote', 'best'; got {mode!r}")
    lowest = number("score_threshold", score_threshold)
    if np.isnan(lowest):
        raise ValueError(f"score_threshold: expected a number; got {score_threshold!r}")
    votes = _votes(min_votes, mode, len(given))
    weight_of_model = _weights(weights, len(given))

    overlaps = _overlaps(images)
    present = [overlaps[0, 0].ids_a] if len(images) == 1 else [overlaps[0, 1].ids_a]
    present += [overlaps[0, k].ids_b for k in range(1, len(images))]
    model = np.repeat(np.arange(len(images)), [len(ids) for ids in present])
    score = np.concatenate(
        [
            _scores(f"models[{i}]", scores, ids if table is None else to_host(table)[ids])
            for i, ((_, scores), ids, table) in enumerate(zip(given, present, of_rank, strict=True))
        ]
    )
    weight = weight_of_model[model]
    with np.errstate(over="ignore"):
        confidence = weight * score
    if not np.isfinite(confidence).all():
        raise ValueError("weights: expected finite products with the scores; got infinite ones")
    order = np.lexsort((np.arange(len(model)), -confidence))  # instances stand by model, then id
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))

    cell = _cells(overlaps, present, rank, model, threshold)
    n_cells = int(cell.max(initial=-1)) + 1
    n_members = np.bincount(cell, minlength=n_cells)
    best = np.full(n_cells, len(order))
    np.minimum.at(best, cell, rank)
    cell_score = score[order[best]]
    if mode != "best":
        cell_score = _mean_scores(cell, score, weight, n_cells)
    is_low = (n_members == 1) & (cell_score < lowest)
    has_few = n_members < votes if mode == "vote" else np.zeros(n_cells, np.bool_)
    # Cells get numbers by which of two lies on top: 1 for the best, 0 for none.
    kept = np.flatnonzero(~(is_low | has_few))
    by_score = kept[np.lexsort((best[kept], -cell_score[kept]))]
    number_of = np.zeros(n_cells, np.int64)
    number_of[by_score] = np.arange(1, len(by_score) + 1)

    # An instance has a share of its cell; a pixel is the cell's where the shares there are enough.
    share, needed = np.ones(len(cell), np.int64), np.ones(n_cells, np.int64)
    shown = number_of[cell]
    if mode == "weighted":
        share = 2 * _shares(confidence, weight, cell, best, order)
        needed = _sums(share, cell, n_cells) // 2
    elif mode == "vote":
        needed *= votes
    else:
        shown = np.where(rank == best[cell], shown, 0)
    out = arrays.empty(tuple(images[0].shape), "int32")
    needed_of_number = np.append(0, needed[by_score])
    _paint(arrays, images, out, _tables(present, shown, share), needed_of_number, mode == "best")

    painted = arrays.empty(tuple(out.shape), "int32")
    painted[...] = out
    n_labels = _core.relabel(painted, arrays.stream)
    result: list[Any] = [arrays.labels_result(painted, n_labels, out_dtype)]
    if return_scores:
        pairs = count_pairs(a=out, b=painted)
        scores = np.zeros(n_labels)
        scores[pairs.b] = cell_score[by_score[pairs.ids_a[pairs.a] - 1]]
        result.append(arrays.result(arrays.xp.asarray(scores, device=arrays.device)))
    if return_report:
        n_low, n_few = int((is_low & ~has_few).sum()), int(has_few.sum())
        result.append(
            FuseReport(
                n_instances=tuple(len(ids) for ids in present),
                n_cells=n_cells,
                n_matched=int((n_members > 1).sum()),
                n_low=n_low,
                n_few_votes=n_few,
                n_empty=len(by_score) - n_labels,
                n_labels=n_labels,
            )
        )
    return tuple(result) if len(result) > 1 else result[0]


def mean_maps(maps: Iterable[Array], weights: Iterable[float] | None = None) -> Array:
    """Average maps of several models: flows, probabilities, distances.

    Parameters
    ----------
    maps : iterable of array, any shape, floating dtype
        One or more, of one shape, dtype, library and device. Flows have to be of one scale.
    weights : iterable of float, optional
        Of each map, finite and > 0; 1 if not given.

    Returns
    -------
    array
        Weighted mean; new, of the kind, shape and dtype of the maps and on their device.

    Raises
    ------
    TypeError
        If maps are no arrays, not of a floating dtype, or not of one dtype and library, or weights
        are no numbers.
    ValueError
        If there is no map, shapes or devices differ, or there is not one weight for each map or
        weights are out of range.

    Notes
    -----
    Sums are float64, in the order given, and rounded once to the dtype: float32 maps that are all
    alike come back bit by bit. NaN and infinities go through. Three float64 arrays of a map's size
    are alive at once.

    Examples
    --------
    >>> import numpy as np
    >>> from cellpost import ensemble
    >>> ensemble.mean_maps([np.array([0.0, 1.0]), np.array([1.0, 1.0])], weights=[3, 1]).tolist()
    [0.25, 1.0]
    """
    every = _several("maps", maps)
    arrays = Arrays(**{f"maps[{i}]": one for i, one in enumerate(every)})
    first = arrays["maps[0]"]
    for i in range(len(every)):
        one, name = arrays[f"maps[{i}]"], f"maps[{i}]"
        if "float" not in dtype_name(one):
            raise TypeError(f"{name}: expected a floating dtype; got {dtype_name(one)}")
        if dtype_name(one) != dtype_name(first):
            raise TypeError(
                f"{name}: expected the dtype of maps[0], {dtype_name(first)}; got {dtype_name(one)}"
            )
        if tuple(one.shape) != tuple(first.shape):
            raise ValueError(
                f"{name}: expected the shape of maps[0], {tuple(first.shape)}; "
                f"got {tuple(one.shape)}"
            )
    weight = _weights(weights, len(every))
    xp = arrays.xp
    total = xp.astype(first, xp.float64) * float(weight[0])
    for i in range(1, len(every)):
        total = total + xp.astype(arrays[f"maps[{i}]"], xp.float64) * float(weight[i])
    return arrays.result(xp.astype(total / float(np.cumsum(weight)[-1]), first.dtype))


# ---- arguments ----------------------------------------------------------------------------------


def _several(name: str, values: Any) -> list[Any]:
    """The values, of which there has to be one at least."""
    try:
        every = list(values)
    except TypeError:
        raise TypeError(f"{name}: expected a sequence; got {type(values).__name__}") from None
    if not every:
        raise ValueError(f"{name}: expected at least one; got none")
    return every


def _pairs(models: Any) -> list[tuple[Array, Any]]:
    pairs = []
    for i, pair in enumerate(_several("models", models)):
        if not isinstance(pair, (tuple, list)):
            raise TypeError(f"models[{i}]: expected (labels, scores); got {type(pair).__name__}")
        if len(pair) != 2:
            raise ValueError(f"models[{i}]: expected (labels, scores); got {len(pair)} items")
        pairs.append((pair[0], pair[1]))
    return pairs


def _weights(weights: Iterable[float] | None, n: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(n)
    values = np.array([number("weights", w) for w in _several("weights", weights)])
    if len(values) != n:
        raise ValueError(f"weights: expected one for each of {n}; got {len(values)}")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"weights: expected finite numbers above 0; got {values.tolist()}")
    return values


def _votes(min_votes: int | None, mode: str, n_models: int) -> int:
    if min_votes is None:
        return n_models // 2 + 1
    if mode != "vote":
        raise ValueError(f"min_votes: expected none with mode={mode!r}; got {min_votes!r}")
    votes = integer("min_votes", min_votes)
    if not 1 <= votes <= n_models:
        raise ValueError(f"min_votes: expected 1 to {n_models}, the models; got {votes}")
    return votes


def _scores(name: str, scores: Any, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """The score of each id."""
    if isinstance(scores, Mapping):
        missing = [int(i) for i in ids if int(i) not in scores]
        if missing:
            raise ValueError(
                f"{name}: expected a score for each of {len(ids)} ids; "
                f"got none for {len(missing)} of them, the first {missing[0]}"
            )
        scores = [scores[int(i)] for i in ids]
    try:
        if hasattr(scores, "__dlpack__"):
            scores = to_host(Arrays(scores=scores)["scores"])
        values = np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected numbers as scores; got {scores!r}") from None
    if values.shape != (len(ids),):
        raise ValueError(
            f"{name}: expected a score for each of {len(ids)} ids; got shape {values.shape}"
        )
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        raise ValueError(f"{name}: expected finite scores >= 0; got {values[wrong][0]}")
    return values


# ---- cells --------------------------------------------------------------------------------------


def _overlaps(images: list[Array]) -> dict[tuple[int, int], ObjectPairs]:
    """Of each two models, the first one earlier; of the one with itself if it is alone."""
    among = [(0, 0)] if len(images) == 1 else combinations(range(len(images)), 2)
    return {(i, j): count_pairs(a=images[i], b=images[j]) for i, j in among}


def _cells(
    overlaps: dict[tuple[int, int], ObjectPairs],
    present: list[NDArray[np.int64]],
    rank: NDArray[np.int64],
    model: NDArray[np.int64],
    threshold: float,
) -> NDArray[np.int64]:
    """The cell of each instance, 0.. without gaps.

    A pair that comes before all other pairs of both its cells is joined whatever happens elsewhere:
    all of these are, at once, as often as there are pairs left. That is the result of one after the
    other.
    """
    start = np.cumsum([0, *(len(ids) for ids in present)])
    found: list[tuple[NDArray[Any], ...]] = []
    for (i, j), pairs in overlaps.items():
        iou = pairs.iou()
        fits = (iou > threshold) & (i != j)
        found.append((pairs.a[fits] + start[i], pairs.b[fits] + start[j], iou[fits]))
    u, v, iou = (np.concatenate(column) for column in zip(*found, strict=True))
    better, worse = np.minimum(rank[u], rank[v]), np.maximum(rank[u], rank[v])
    order = np.lexsort((worse, better, -iou))
    u, v = u[order], v[order]

    # Models that a cell has instances of, as bits.
    n = len(model)
    has = np.zeros((n, len(present) // 64 + 1), np.uint64)
    has[np.arange(n), model // 64] = np.left_shift(np.uint64(1), (model % 64).astype(np.uint64))
    into = np.arange(n)  # the instance that stands for each one's cell, or another one on the way
    first = np.empty(n, np.int64)
    while len(u) > 0:
        at = np.arange(len(u))
        first[u] = first[v] = len(u)
        np.minimum.at(first, u, at)
        np.minimum.at(first, v, at)
        joined = (first[u] == at) & (first[v] == at)
        low, high = np.minimum(u[joined], v[joined]), np.maximum(u[joined], v[joined])
        has[low] |= has[high]
        into[high] = low
        u, v = into[u], into[v]
        apart = ~(has[u] & has[v]).any(axis=1)
        u, v = u[apart], v[apart]
    while (into != into[into]).any():
        into = into[into]
    return np.asarray(np.unique(into, return_inverse=True)[1], np.int64)


def _mean_scores(
    cell: NDArray[np.int64],
    score: NDArray[np.float64],
    weight: NDArray[np.float64],
    n_cells: int,
) -> NDArray[np.float64]:
    """Weighted mean of each cell.

    Differences to the highest score are averaged: the mean of equal scores is that score. They are
    added in descending order of confidence, not of the models.
    """
    by = np.lexsort((-score, -weight, -weight * score))
    cell, score, weight = cell[by], score[by], weight[by]
    highest = np.zeros(n_cells)
    np.maximum.at(highest, cell, score)
    below = np.bincount(cell, weight * (highest[cell] - score), n_cells)
    return np.asarray(highest - below / np.bincount(cell, weight, n_cells), np.float64)


def _shares(
    confidence: NDArray[np.float64],
    weight: NDArray[np.float64],
    cell: NDArray[np.int64],
    best: NDArray[np.int64],
    order: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Confidences in whole parts of the power of two above the largest of the cell."""
    largest = confidence[order[best]][cell]
    value = np.where(largest > 0, confidence, weight)
    if (largest <= 0).any():
        heaviest = np.zeros(len(best))
        np.maximum.at(heaviest, cell, weight)
        largest = np.where(largest > 0, largest, heaviest[cell])
    shares = np.rint(np.ldexp(value, _BITS - np.frexp(largest)[1]))
    return np.asarray(shares, np.int64)


def _sums(values: NDArray[np.int64], at: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Sums of whole numbers at each place below n."""
    sums = np.zeros(n, np.int64)
    np.add.at(sums, at, values)
    return sums


# ---- pixels -------------------------------------------------------------------------------------


def _tables(
    present: list[NDArray[np.int64]], shown: NDArray[np.int64], share: NDArray[np.int64]
) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """For each model the cell's number of each id, and its share of the cell."""
    tables = []
    ends = np.cumsum([len(ids) for ids in present])
    for ids, end in zip(present, ends, strict=True):
        n = int(ids.max(initial=0)) + 1
        cells, shares = np.zeros(n, np.int32), np.zeros(n, np.int64)
        cells[ids] = shown[end - len(ids) : end]
        shares[ids] = share[end - len(ids) : end]
        tables.append((cells, shares))
    return tables


def _paint(
    arrays: Arrays,
    images: list[Array],
    out: Array,
    tables: list[tuple[NDArray[np.int32], NDArray[np.int64]]],
    needed: NDArray[np.int64],
    is_best: bool,
) -> None:
    """Write the number of the first cell that has enough shares at each pixel, or 0."""
    xp = arrays.xp

    def put(table: NDArray[Any]) -> Array:
        return xp.asarray(table, device=arrays.device)

    cells_of = [put(cells) for cells, _ in tables]
    shares_of = [put(shares) for _, shares in tables]
    enough, none = put(needed), np.iinfo(np.int32).max
    flat = [xp.reshape(image, (-1,)) for image in images]
    painted = xp.reshape(out, (-1,))  # a view: out is contiguous
    for begin in range(0, int(painted.shape[0]), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        ids = [image[part] for image in flat]
        cells = [xp.take(table, i, axis=0) for table, i in zip(cells_of, ids, strict=True)]
        painted[part] = cells[0]
        # Where all say the same, so does the result.
        differs = cells[0] != cells[0]
        for other in cells[1:]:
            differs |= other != cells[0]
        (where,) = xp.nonzero(differs)
        if int(where.shape[0]) == 0:
            continue
        cells = [xp.take(one, where, axis=0) for one in cells]
        shares = [
            xp.take(table, xp.take(i, where, axis=0), axis=0)
            for table, i in zip(shares_of, ids, strict=True)
        ]
        top = xp.full_like(cells[0], none)
        for one in cells:
            fits = one > 0
            if not is_best:
                there = xp.zeros_like(shares[0])
                for other, share in zip(cells, shares, strict=True):
                    there += xp.where(other == one, share, xp.zeros_like(share))
                fits &= there >= xp.take(enough, one, axis=0)
            top = xp.where(fits & (one < top), one, top)
        painted[begin + where] = xp.where(top == none, xp.zeros_like(top), top)
