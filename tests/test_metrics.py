"""Matching and its scores against the oracle and the peers."""

from __future__ import annotations

import importlib
import time

import numpy as np
import peers
import pytest
import simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import metrics as ref
from scipy.optimize import linear_sum_assignment

from cellpost import metrics
from cellpost.metrics import matching
from cellpost.metrics.assignment import best_pairs

SCORES = ("precision", "recall", "f1", "accuracy", "mean_true_score", "mean_matched_score")
COUNTS = ("n_true", "n_pred", "tp", "fp", "fn")
THRESHOLDS = [0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.7, 0.95, 1.0]
CLOSE = 1e-12  # sums of up to some hundred IoUs in another order


def assert_same(got, expected, close=CLOSE):
    for name in COUNTS:
        assert getattr(got, name) == expected[name], name
    for name in (*SCORES, "panoptic_quality"):
        assert getattr(got, name) == pytest.approx(expected[name], abs=close), name


def label_images(draw, seed, form):
    """Two images that share pixels in many ways."""
    rng = np.random.default_rng(seed)
    shape = [(9, 11), (14, 10), (1, 30), (4, 6, 5)][form % 4]
    if form < 4:  # noise: every object overlaps with every other
        return [rng.integers(0, rng.integers(1, 6), shape) for _ in range(2)]
    if form < 8:  # blobs, and others of them moved
        one = simulate.blobs(shape, int(rng.integers(1, 12)), seed=seed, radius=(1, 4))
        return [one, np.roll(one, int(rng.integers(0, 3)), int(rng.integers(len(shape))))]
    blocks = [np.arange(np.prod(shape)).reshape(shape) // rng.integers(1, 9) + 1 for _ in range(2)]
    return [np.where(rng.random(shape) < 0.1, 0, b) for b in blocks]  # ties, full images


pairs_of_images = st.builds(
    lambda seed, form: label_images(None, seed, form), st.integers(0, 10**6), st.integers(0, 11)
)


@settings(max_examples=150, deadline=None)
@given(pairs_of_images)
def test_match_is_the_oracle(images):
    true, pred = images
    found = metrics.match(true, pred, THRESHOLDS)
    for threshold, one in zip(THRESHOLDS, found, strict=True):
        expected = ref.matching(true, pred, threshold)
        assert one.iou == threshold
        for name in COUNTS:
            assert getattr(one, name) == expected[name], (threshold, name)
        if threshold >= 0.5:
            assert_same(one, expected)
        if threshold > 0.5:
            assert {tuple(p) for p in one.pairs.tolist()} == expected["pairs"]
        assert (np.diff(one.scores) <= 0).all()
        assert (one.scores >= threshold).all()
        assert len(np.unique(one.pairs[:, 0])) == len(np.unique(one.pairs[:, 1])) == one.tp
        t, p, inter, union = ref.tables(true, pred)
        for (a, b), score in zip(one.pairs.tolist(), one.scores, strict=True):
            at = t.index(a), p.index(b)
            assert score == inter[at] / union[at]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_scores_below_one_half_are_the_oracle_s(seed):
    # Random sizes: no two ways to match have the same sum, so that the numbers are defined.
    rng = np.random.default_rng(seed)
    shape = (24, 26)
    true = simulate.blobs(shape, 14, seed=seed, radius=(2, 6))
    pred = simulate.blobs(shape, 14, seed=seed + 1, radius=(2, 6))
    pred = np.where(rng.random(shape) < 0.4, true, pred)
    for threshold in (0.05, 0.1, 0.2, 0.3, 0.4):
        assert_same(metrics.match(true, pred, threshold), ref.matching(true, pred, threshold))


@settings(max_examples=100, deadline=None)
@given(pairs_of_images, st.integers(0, 3))
def test_areas_are_the_oracle_s(images, width):
    true, pred = images
    inner = [ref.without_border(x, width) for x in images]
    for unique in (False, True):
        got = metrics.aggregated_jaccard(true, pred, unique=unique, exclude_border=width)
        if unique:  # equal sums of IoU: which pairing is taken is open
            sums = ref.tables(*inner)
            scores = np.where(sums[2] > 0, sums[2] / (sums[3] + 1e-6), 0)
            if len(np.unique(scores[scores > 0])) < (scores > 0).sum():
                continue
        assert got == pytest.approx(ref.aggregated_jaccard(*inner, unique), abs=CLOSE)
    assert metrics.dice(true, pred, exclude_border=width) == ref.dice(*inner)
    assert metrics.count_error(true, pred) == len(ref.ids_of(pred)) - len(ref.ids_of(true))
    assert metrics.n_cells(true) == len(ref.ids_of(true))
    expected = ref.matching(*inner, 0.5)
    assert_same(metrics.match(true, pred, exclude_border=width), expected)


@settings(max_examples=100, deadline=None)
@given(pairs_of_images, st.integers(0, 10**6))
def test_symmetry_renumbering_and_flips(images, seed):
    true, pred = images
    rng = np.random.default_rng(seed)
    new = np.append(0, rng.choice(2**62, max(true.max(), pred.max()), replace=False) + 1)
    for threshold in (0.2, 0.5, 0.75):
        one = metrics.match(true, pred, threshold)
        back = metrics.match(pred, true, threshold)
        assert (one.tp, one.fp, one.fn) == (back.tp, back.fn, back.fp)
        assert one.f1 == back.f1
        other = metrics.match(np.flip(new[true]), np.flip(new[pred]), threshold)
        assert (one.n_true, one.n_pred, one.tp) == (other.n_true, other.n_pred, other.tp)
        if threshold > 0.5:
            assert one.scores.tolist() == other.scores.tolist()
    assert metrics.dice(true, pred) == metrics.dice(new[pred], new[true])
    same = metrics.match(true, new[true], 1.0)
    assert same.tp == same.n_true == same.n_pred
    assert metrics.average_precision(true, true) == float(true.any())
    assert metrics.aggregated_jaccard(true, true) == float(true.any())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 9), st.booleans()),
        max_size=9,
        unique_by=lambda e: e[:2],
    )
)
def test_best_pairs_by_trying_all(edges):
    edges = sorted(edges)
    rows, columns, scores, wanted = (np.array(x) for x in zip(*edges, strict=True)) if edges else [
        np.empty(0, int)
    ] * 4  # fmt: skip
    scores, wanted = scores / 9, wanted.astype(bool)
    for want in (wanted, np.zeros(len(edges), bool)):
        chosen = best_pairs(rows, columns, scores, want if want.any() else None)
        assert len(set(rows[chosen])) == len(set(columns[chosen])) == len(chosen)
        count, total = ref.best_sum(rows, columns, scores, want)
        assert want[chosen].sum() == count
        if not want.any():
            assert scores[chosen].sum() == pytest.approx(total, abs=CLOSE)


def test_large_clusters_are_the_hungarian_method_s():
    rng = np.random.default_rng(0)
    for n, n_pairs in ((60, 300), (400, 900), (300, 30_000)):
        columns, rows = np.unique(rng.integers(0, n, (2, n_pairs)), axis=1)[::-1]
        order = np.argsort(rows, kind="stable")
        rows, columns = rows[order], columns[order]
        for scores in (rng.uniform(0.01, 1, len(rows)), rng.integers(1, 4, len(rows)) / 4):
            for wanted in (None, rng.random(len(rows)) < 0.5, rng.random(len(rows)) < 0.02):
                chosen = best_pairs(rows, columns, scores, wanted)
                assert len(set(rows[chosen])) == len(set(columns[chosen])) == len(chosen)
                assert (np.diff(chosen) > 0).all()
                dense = np.zeros((n, n))
                dense[rows, columns] = scores if wanted is None else scores + 1000 * wanted
                best = dense[linear_sum_assignment(dense, maximize=True)].sum()
                assert dense[rows[chosen], columns[chosen]].sum() == pytest.approx(best, abs=1e-9)


# ---- ties, empty sides, ids ---------------------------------------------------------------------


def test_halves_tie_at_one_half():
    whole, halves = np.full((2, 4), 9), np.array([[5, 5, 3, 3]] * 2)
    for threshold in ([0.5], [0.4], [0.5, 0.9], [0.3, 0.5]):
        for true, pred, pair in ((whole, halves, [9, 3]), (halves, whole, [3, 9])):
            one = metrics.match(true, pred, threshold)[-1 if threshold[0] < 0.4 else 0]
            assert (one.tp, one.scores.tolist()) == (1, [0.5])
            assert one.pairs.tolist() == [pair]
    several = np.concatenate([whole, whole + 1], 1), np.concatenate([halves, halves + 3], 1)
    assert metrics.match(*several).pairs.tolist() == [[9, 3], [10, 6]]


def test_iou_that_equals_the_threshold():
    true = np.zeros((1, 20), int)
    true[0, :20] = 1
    for k, threshold in [(11, 0.55), (13, 0.65), (19, 0.95), (10, 0.5)]:
        pred = np.where(np.arange(20) < k, 2, 0)[None]
        assert metrics.match(true, pred, threshold).tp == 1
        assert metrics.match(true, pred, np.nextafter(threshold, 1)).tp == 0


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5), (0, 4), (3, 0, 2), (0, 0)])
def test_empty_sides_score_nothing(shape):
    empty = np.zeros(shape, np.uint16)
    sides = [(empty, empty)]
    if empty.size:
        full = empty + 7
        sides += [(empty, full), (full, empty)]
    for true, pred in sides:
        for one in metrics.match(true, pred, [0.1, 0.5, 0.9]):
            assert (one.n_true, one.n_pred) == (int(true.any()), int(pred.any()))
            assert (one.tp, one.fp, one.fn) == (0, one.n_pred, one.n_true)
            assert [getattr(one, name) for name in SCORES] == [0.0] * 6
            assert one.panoptic_quality == 0.0
            assert one.pairs.shape == (0, 2)
        assert metrics.f1(true, pred) == metrics.average_precision(true, pred) == 0.0
        assert metrics.dice(true, pred) == metrics.aggregated_jaccard(true, pred) == 0.0
        assert metrics.aggregated_jaccard(true, pred, unique=True) == 0.0


def test_one_object_over_all():
    one = np.ones((30, 30), np.uint8)
    many = np.arange(900).reshape(30, 30) + 1
    assert metrics.f1(one, one) == 1.0
    found = metrics.match(one, many, 0.001)
    assert (found.tp, found.fp, found.fn, found.pairs.tolist()) == (1, 899, 0, [[1, 1]])
    assert metrics.match(one, many).tp == 0


@pytest.mark.parametrize("n", [70_000])
def test_more_ids_than_uint16(n):
    true = np.repeat(np.arange(1, n + 1, dtype=np.uint32), 3).reshape(300, -1)
    pred = true.astype(np.int64) * 10**12  # gaps
    pred[pred == 10**12] = 0
    found = metrics.match(true, pred, [0.3, 0.5, 0.95])
    for one in found:
        assert (one.n_true, one.tp, one.fp, one.fn) == (n, n - 1, 0, 1)
        assert (one.pairs[:, 1] == one.pairs[:, 0] * 10**12).all()
    assert found[1].pairs.base is found[2].pairs.base
    assert metrics.n_cells(pred) == n - 1


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"])
def test_dtypes(dtype):
    true = simulate.blobs((20, 20), 9, seed=3).astype(dtype)
    pred = np.roll(true, 1, 0)
    assert_same(metrics.match(true, pred), ref.matching(true, pred, 0.5))
    with np.errstate(all="raise"):
        assert metrics.f1(true, np.asfortranarray(pred.astype(np.int64))[:, :]) > 0


def test_kinds_of_arrays(kind):
    true = simulate.blobs((30, 31), 12, seed=5)
    pred = np.roll(true, 1, 1)
    put = kind.put(true.copy()), kind.put(pred.copy())
    got = metrics.match(*put, [0.2, 0.5], exclude_border=1)
    expected = metrics.match(true, pred, [0.2, 0.5], exclude_border=1)
    for one, other in zip(got, expected, strict=True):
        assert isinstance(one.pairs, np.ndarray)
        assert one.pairs.tolist() == other.pairs.tolist()
        assert one.scores.tolist() == other.scores.tolist()
    assert type(metrics.f1(*put)) is float
    assert type(metrics.aggregated_jaccard(*put)) is float
    assert metrics.n_cells(put[0]) == len(ref.ids_of(true))
    assert metrics.count_error(*put) == 0


def test_results_cannot_be_written_to():
    found = metrics.match(np.ones((2, 2), int), np.ones((2, 2), int))
    with pytest.raises(ValueError, match="read-only"):
        found.pairs[0, 0] = 3
    with pytest.raises(AttributeError):
        found.tp = 3


# ---- several images -----------------------------------------------------------------------------


def test_pooled_and_table():
    pairs = [
        (simulate.blobs((25, 25), 10, seed=s), simulate.blobs((25, 25), 10, seed=s + s % 2))
        for s in range(4)
    ]
    pairs.append((pairs[0][0] * 0, pairs[0][0] * 0))
    thresholds = [0.25, 0.5, 0.75]
    each = [metrics.match(*pair, thresholds) for pair in pairs]
    total = metrics.pooled(each)
    table = metrics.evaluate((pair for pair in pairs), thresholds)
    for k, one in enumerate(total):
        for name in COUNTS:
            assert getattr(one, name) == sum(getattr(m[k], name) for m in each)
        assert len(one.pairs) == len(one.scores) == one.tp
        for name in (*SCORES, "panoptic_quality", "tp", "fp", "fn"):
            assert table.pooled[name][k] == pytest.approx(getattr(one, name), abs=CLOSE)
            column = [getattr(m[k], name) for m in each]
            assert table.images[name][:, k].tolist() == pytest.approx(column, abs=CLOSE)
    assert metrics.pooled([m[1] for m in each]).f1 == total[1].f1
    for i, pair in enumerate(pairs):
        assert table.images["average_precision"][i] == metrics.average_precision(*pair)
        assert table.images["dice"][i] == metrics.dice(*pair)
        assert table.images["aggregated_jaccard"][i] == metrics.aggregated_jaccard(*pair)
        plus = metrics.aggregated_jaccard(*pair, unique=True)
        assert table.images["aggregated_jaccard_plus"][i] == plus
        assert table.images["count_error"][i] == metrics.count_error(*pair)
    single = metrics.evaluate(pairs)
    assert single.images["f1"].shape == single.images["n_true"].shape == (5,)
    assert single.pooled["f1"] == total[1].f1
    assert single.images["tp"].dtype == np.int64
    assert single.images["f1"].dtype == np.float64
    # pooled areas are those of all images side by side
    wide = [np.concatenate([p[k] + (p[k] > 0) * 100 * i for i, p in enumerate(pairs)]) for k in (0, 1)]  # fmt: skip  # noqa: E501
    assert single.pooled["aggregated_jaccard"] == metrics.aggregated_jaccard(*wide)
    assert single.pooled["dice"] == metrics.dice(*wide)
    assert single.pooled["average_precision"] == pytest.approx(metrics.average_precision(*wide))


def test_no_images():
    table = metrics.evaluate([], [0.5, 0.6])
    assert table.images["f1"].shape == (0, 2)
    assert table.pooled["n_true"] == 0
    assert table.pooled["f1"].tolist() == [0, 0]
    assert metrics.evaluate([]).pooled["f1"] == 0.0


def test_the_challenge(monkeypatch):
    def count(true, pred, threshold):
        found = ref.matching(true, pred, threshold)
        return [found[name] for name in ("tp", "fp", "fn")]

    for seed in range(6):
        shape = [(40, 50), (39, 41), (60, 21)][seed % 3]
        true = simulate.blobs(shape, 40, seed=seed, radius=(1, 4))
        pred = np.roll(true, 1, seed % 2)
        pred[:20, :20] = 0
        for slide in (10**6, 0):
            monkeypatch.setattr(matching, "_SLIDE", slide)
            monkeypatch.setattr(matching, "_WINDOW", 20)
            got = metrics.challenge_match(true, pred)
            expected = ref.challenge(true, pred, 0.5, count, slide=slide, window=20)
            assert (got.tp, got.fp, got.fn) == expected
            assert (got.n_true, got.n_pred) == (got.tp + got.fn, got.tp + got.fp)
    monkeypatch.undo()
    assert metrics.challenge_match(true, pred).f1 == metrics.f1(true, pred, exclude_border=2)
    assert metrics.challenge_match(true * 0, true * 0).f1 == 0.0


# ---- wrong input --------------------------------------------------------------------------------

OK = np.array([[1, 1, 0, 2]])
FUNCTIONS = [
    metrics.match,
    metrics.f1,
    metrics.average_precision,
    metrics.panoptic_quality,
    metrics.aggregated_jaccard,
    metrics.dice,
    metrics.count_error,
    metrics.challenge_match,
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("true", "pred", "error", "says"),
    [
        (OK, OK * 1.0, TypeError, "pred: expected an integer dtype; got float64"),
        (OK > 0, OK, TypeError, "true: expected an integer dtype; got bool"),
        (OK, OK[:, :3], ValueError, r"pred: expected the shape of true, \(1, 4\); got \(1, 3\)"),
        (-OK, OK, ValueError, "true: expected ids >= 0; got -2"),
        (OK, -OK, ValueError, "pred: expected ids >= 0; got -2"),
        (OK[0], OK[0], ValueError, r"true: expected 2 axes \(H, W\)"),
        (OK.tolist(), OK, TypeError, "true: expected an array"),
        (OK, None, TypeError, "pred: expected an array"),
    ],
)
def test_wrong_images(function, true, pred, error, says):
    with pytest.raises(error, match=says):
        function(true, pred)


@pytest.mark.parametrize(
    ("iou", "error", "says"),
    [
        (float("nan"), ValueError, "iou: expected 0 < iou <= 1; got nan"),
        (0, ValueError, "iou: expected 0 < iou <= 1; got 0.0"),
        (1.01, ValueError, "iou: expected 0 < iou <= 1; got 1.01"),
        ("half", TypeError, "iou: expected a number; got 'half'"),
        (None, TypeError, "iou: expected a number; got None"),
    ],
)
def test_wrong_thresholds(iou, error, says):
    calls = [metrics.match, metrics.f1, metrics.average_precision, metrics.panoptic_quality]
    for function in [*calls, metrics.challenge_match]:
        with pytest.raises(error, match=says):
            function(OK, OK, iou)
    with pytest.raises(error, match=says):
        metrics.match(OK, OK, [0.5, iou])
    with pytest.raises(error, match=says):
        metrics.evaluate([], iou)
    with pytest.raises(error, match=says):
        metrics.stability([OK, OK], iou)


def test_other_wrong_arguments():
    with pytest.raises(ValueError, match="iou: expected at least one threshold; got none"):
        metrics.match(OK, OK, [])
    with pytest.raises(ValueError, match="exclude_border: expected 0 pixels or more; got -1"):
        metrics.f1(OK, OK, exclude_border=-1)
    with pytest.raises(TypeError, match=r"exclude_border: expected an integer; got 1\.5"):
        metrics.dice(OK, OK, exclude_border=1.5)
    with pytest.raises(TypeError, match=r"exclude_border: expected an integer; got \(1, 2\)"):
        metrics.match(OK, OK, exclude_border=(1, 2))
    with pytest.raises(ValueError, match="matches: expected those of at least one image"):
        metrics.pooled([])
    with pytest.raises(ValueError, match=r"matches: expected one threshold; got \[0.5, 0.6\]"):
        metrics.pooled([metrics.match(OK, OK, t) for t in (0.5, 0.6)])
    with pytest.raises(ValueError, match="matches: expected the same thresholds"):
        metrics.pooled([metrics.match(OK, OK, t) for t in ([0.5, 0.6], [0.5])])
    for wrong in ([3], [metrics.match(OK, OK), 3]):
        with pytest.raises(TypeError, match="matches: expected Match or tuples of them; got 3"):
            metrics.pooled(wrong)
    with pytest.raises(TypeError, match=r"pairs\[1\]: expected \(true, pred\); got int"):
        metrics.evaluate([(OK, OK), 3])
    with pytest.raises(ValueError, match=r"pairs\[1\]: pred: expected the shape of true"):
        metrics.evaluate([(OK, OK), (OK, OK.T)])
    volume = np.ones((2, 3, 4), int)
    with pytest.raises(ValueError, match=r"true: expected 2 axes \(H, W\); got \(2, 3, 4\)"):
        metrics.challenge_match(volume, volume)
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="pred: expected an array of the library that true is of"):
        metrics.match(OK, torch.from_numpy(OK))


# ---- size ---------------------------------------------------------------------------------------


def test_dense_clusters_below_one_half_stay_fast():
    true = np.arange(400 * 400).reshape(400, 400) // 7 + 1
    pred = np.arange(400 * 400).reshape(400, 400).T // 5 + 1
    rng = np.random.default_rng(0)
    pred = np.where(rng.random(pred.shape) < 0.5, true, pred)
    start = time.perf_counter()
    found = metrics.match(true, pred, [0.05, 0.2, 0.4])
    plus = metrics.aggregated_jaccard(true, pred, unique=True)
    assert time.perf_counter() - start < 60
    assert 0 < plus < 1
    assert found[0].tp >= found[1].tp >= found[2].tp > 0


# ---- peers --------------------------------------------------------------------------------------


def peer_images(nuclei2d):
    rng = np.random.default_rng(0)
    yield nuclei2d, np.roll(nuclei2d, (2, 3), (0, 1))
    yield nuclei2d, np.where(rng.random(nuclei2d.shape) < 0.3, 0, np.roll(nuclei2d, 5, 0))
    for seed in range(8):
        one = simulate.blobs((60, 60), 40, seed=seed)
        yield one, np.where(rng.random(one.shape) < 0.5, one, np.roll(one, 2, 0))
        yield one, simulate.blobs((60, 60), 40, seed=seed + 100)
    yield one, one * 0
    yield one * 0, one
    yield np.full((4, 4), 9), np.array([[5, 5, 3, 3]] * 4)


@pytest.mark.peer
def test_stardist(nuclei2d):
    peer = peers.stardist_matching()
    for true, pred in [*peer_images(nuclei2d), (nuclei2d * 0, nuclei2d * 0)]:
        expected = peer.matching(true, pred, [0.1, 0.3, *metrics.AP_IOUS])
        for one, other in zip(
            metrics.match(true, pred, [0.1, 0.3, *metrics.AP_IOUS]), expected, strict=True
        ):
            assert_same(one, other._asdict(), 1e-6)  # its IoUs are float32
    pairs = list(peer_images(nuclei2d))
    expected = peer.matching_dataset(*zip(*pairs, strict=True), thresh=0.5, show_progress=False)
    assert_same(metrics.pooled(metrics.match(*pair) for pair in pairs), expected._asdict(), 1e-6)


@pytest.mark.peer
def test_cellpose(nuclei2d, peer):
    peer_metrics = importlib.import_module("cellpose.metrics")
    for true, pred in peer_images(nuclei2d):
        thresholds = [0.1, 0.3, *metrics.AP_IOUS]
        if not (true.any() and pred.any()) or (true.all() and pred.all()):
            continue  # it counts one object too few where there is no background
        ap, tp, fp, fn = peer_metrics.average_precision(true, pred, thresholds)
        for k, one in enumerate(metrics.match(true, pred, thresholds)):
            assert (one.tp, one.fp, one.fn) == (tp[k], fp[k], fn[k])
            assert np.float32(one.accuracy) == ap[k]
