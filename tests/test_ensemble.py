"""ensemble.fuse against its oracle and its symmetries; ensemble.mean_maps."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, permutations

import numpy as np
import pytest
import simulate
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import cellpost
from cellpost import ensemble
from cellpost.ensemble import FuseReport

MODES = ("weighted", "vote", "best")


def fused(models, **options):
    return ensemble.fuse(models, return_scores=True, return_report=True, **options)


def ids_of(labels):
    return np.unique(labels[labels > 0])


# ---- oracle -------------------------------------------------------------------------------------


def in_raster_order(labels):
    """The same partition with ids 1..N in order of the first pixels, and the old ids."""
    ids, first = np.unique(labels, return_index=True)
    ordered = [i for i in ids[np.argsort(first)] if i > 0]
    out = np.zeros(labels.shape, np.int32)
    for n, i in enumerate(ordered, 1):
        out[labels == i] = n
    return out, ordered


class Cell:
    """Some instances (model, id, mask, score, weight); all sums are exact."""

    def __init__(self, members):
        self.members = sorted(members, key=better)
        self.models = {m[0] for m in members}
        scores = [(Fraction(s), Fraction(w)) for _, _, _, s, w in members]
        self.mean = sum(s * w for s, w in scores) / sum(w for _, w in scores)

    def pixels(self, mode, votes):
        masks = [mask for _, _, mask, _, _ in self.members]
        if mode == "best":
            return masks[0]
        shares = [Fraction(1) for _ in masks]
        if mode == "weighted":
            shares = [Fraction(s) * Fraction(w) for *_, s, w in self.members]
            if sum(shares) == 0:
                shares = [Fraction(w) for *_, w in self.members]
        needed = sum(shares) / 2 if mode == "weighted" else votes
        out = np.zeros(masks[0].shape, bool)
        for at in np.ndindex(out.shape):
            there = sum(s for s, mask in zip(shares, masks, strict=True) if mask[at])
            out[at] = there >= needed and there > 0
        return out

    def score(self, mode):
        return Fraction(self.members[0][3]) if mode == "best" else self.mean


def better(instance):
    model, id_, _, score, weight = instance
    return (-Fraction(score) * Fraction(weight), model, id_)


def cells_of(models, weights, threshold):
    instances = [
        (m, int(i), labels == i, s, weights[m])
        for m, (labels, scores) in enumerate(models)
        for i, s in zip(ids_of(labels), scores, strict=True)
    ]
    pairs = []
    for p, q in combinations(sorted(instances, key=better), 2):
        both, either = int((p[2] & q[2]).sum()), int((p[2] | q[2]).sum())
        if p[0] != q[0] and both / either > threshold:
            pairs.append((-Fraction(both, either), better(p), better(q), p, q))
    cell = {p[:2]: Cell([p]) for p in instances}
    for *_, p, q in sorted(pairs, key=lambda pair: pair[:3]):
        one, other = cell[p[:2]], cell[q[:2]]
        if one is not other and not one.models & other.models:
            joined = Cell(one.members + other.members)
            for m in joined.members:
                cell[m[:2]] = joined
    return list({id(c): c for c in cell.values()}.values())


def oracle(models, threshold=0.15, mode="weighted", weights=None, score_threshold=0.0, votes=None):
    weights = weights or [1] * len(models)
    votes = votes or len(models) // 2 + 1
    cells = cells_of(models, weights, threshold)
    few = [c for c in cells if mode == "vote" and len(c.members) < votes]
    low = [
        c for c in cells if c not in few and len(c.members) == 1 and c.score(mode) < score_threshold
    ]
    kept = [c for c in cells if c not in few and c not in low]
    kept.sort(key=lambda c: (-c.score(mode), better(c.members[0])))
    out = np.zeros(models[0][0].shape, np.int32)
    for n in range(len(kept), 0, -1):
        out[kept[n - 1].pixels(mode, votes)] = n
    labels, shown = in_raster_order(out)
    report = FuseReport(
        n_instances=tuple(len(s) for _, s in models),
        n_cells=len(cells),
        n_matched=sum(len(c.members) > 1 for c in cells),
        n_low=len(low),
        n_few_votes=len(few),
        n_empty=len(kept) - len(shown),
        n_labels=len(shown),
    )
    return labels, [float(kept[n - 1].score(mode)) for n in shown], report


def means_that_floats_may_part(models, weights, threshold):
    """Whether two cells of one score have it as a sum that may be rounded in different ways."""
    means = [c.mean for c in cells_of(models, weights, threshold)]
    odd = [m for m in means if m.denominator & (m.denominator - 1)]
    return any(means.count(m) > 1 for m in odd)


@st.composite
def cases(draw, fewest=1, most=4):
    """Models of a small image, objects of which are boxes that are moved a little; with ties."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 8)))
    models = []
    for _ in range(draw(st.integers(fewest, most))):
        labels = np.zeros(shape, np.int32)
        for _ in range(draw(st.integers(0, 5))):
            y, x = (draw(st.integers(0, n - 1)) for n in shape)
            h, w = draw(st.integers(1, 3)), draw(st.integers(1, 4))
            labels[y : y + h, x : x + w] = draw(st.integers(1, 9))
        models.append((labels, [draw(st.integers(0, 8)) / 8 for _ in ids_of(labels)]))
    return models


def options_of(draw, n_models):
    return {
        "mode": draw(st.sampled_from(MODES)),
        "weights": draw(
            st.one_of(
                st.none(),
                st.lists(st.sampled_from([0.5, 1, 2]), min_size=n_models, max_size=n_models),
            )
        ),
        "iou_threshold": draw(st.sampled_from([0.0, 0.15, 0.3, 0.5])),
        "score_threshold": draw(st.sampled_from([0.0, 0.25, 0.5])),
        "min_votes": draw(st.one_of(st.none(), st.integers(1, n_models))),
    }


@given(cases(), st.data())
@settings(max_examples=500, deadline=None)
def test_it_is_the_oracles(models, data):
    options = options_of(data.draw, len(models))
    weights = options["weights"] or [1] * len(models)
    assume(not means_that_floats_may_part(models, weights, options["iou_threshold"]))
    votes = options.pop("min_votes")
    if options["mode"] != "vote":
        votes = None
    copies = [labels.copy() for labels, _ in models]
    labels, scores, report = fused(models, **options, min_votes=votes)
    threshold = options.pop("iou_threshold")
    expected, expected_scores, expected_report = oracle(models, threshold, votes=votes, **options)
    np.testing.assert_array_equal(labels, expected)
    # Sums of few numbers, rounded to float64 a few times.
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-14)
    assert report == expected_report
    for (given_, _), copy in zip(models, copies, strict=True):
        np.testing.assert_array_equal(given_, copy)


@given(cases(fewest=2), st.sampled_from(MODES), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_the_order_of_models_does_not_show(models, mode, seed):
    # Scores without ties; ties of IoUs still go by them, and not by the models.
    rng = np.random.default_rng(seed)
    models = [(labels, rng.random(len(scores))) for labels, scores in models]
    weights = 1 + rng.random(len(models))
    first = fused(models, mode=mode, weights=weights)
    for order in list(permutations(range(len(models))))[1::5]:
        again = fused([models[i] for i in order], mode=mode, weights=[weights[i] for i in order])
        np.testing.assert_array_equal(again[0], first[0])
        np.testing.assert_array_equal(again[1], first[1])
        assert again[2].n_labels == first[2].n_labels


@given(cases(most=1), st.integers(1, 5), st.sampled_from(MODES))
@example([(np.array([[1, 2], [1, 2]]), [0.1, 0.7])], 3, "weighted")
@settings(max_examples=100, deadline=None)
def test_identical_models_give_the_model_back(models, n, mode):
    labels, scores, report = fused(models * n, mode=mode)
    expected, shown = in_raster_order(models[0][0])
    score = dict(zip(ids_of(models[0][0]), models[0][1], strict=True))
    np.testing.assert_array_equal(labels, expected)
    assert scores.tolist() == [score[i] for i in shown]
    assert report.n_cells == report.n_labels == len(shown)
    assert report.n_matched == (len(shown) if n > 1 else 0)


@pytest.mark.parametrize("mode", MODES)
def test_disjoint_models_give_the_union(mode, device):
    whole = simulate.blobs((60, 70), 30, seed=3)
    models = []
    for k in range(3):
        labels = np.where(whole % 3 == k, whole, 0)
        models.append((device.put(labels), ids_of(labels) / 100))
    got, scores = ensemble.fuse(models, mode=mode, return_scores=True, **least(mode))
    expected, shown = in_raster_order(whole)
    np.testing.assert_array_equal(device.get(got), expected)
    np.testing.assert_array_equal(device.get(scores), np.array(shown) / 100)


def least(mode):
    return {"min_votes": 1} if mode == "vote" else {}


# ---- real nuclei --------------------------------------------------------------------------------


def perturbed(labels, *, seed, missed=0.0):
    """Each object moved by up to a pixel, some missed, under new ids, with scores."""
    rng = np.random.default_rng(seed)
    ids = ids_of(labels)
    out = np.zeros_like(labels, np.int32)
    new = rng.permutation(len(ids)) + 1
    for i, n in zip(ids, new, strict=True):
        if rng.random() >= missed:
            moved = np.roll(labels == i, rng.integers(-1, 2, labels.ndim), range(labels.ndim))
            out[moved] = 3 * n
    return out, rng.uniform(0.5, 1, len(ids_of(out)))


def f1(true, pred):
    pairs = cellpost.overlap_counts(true, pred)
    area = {k: np.bincount(v, pairs.count) for k, v in (("a", pairs.a), ("b", pairs.b))}
    iou = pairs.count / (area["a"][pairs.a] + area["b"][pairs.b] - pairs.count)
    hits = ((iou > 0.5) & (pairs.a > 0) & (pairs.b > 0)).sum()
    return 2 * hits / (len(ids_of(true)) + len(ids_of(pred)))


@pytest.mark.parametrize("mode", MODES)
def test_real_nuclei_that_models_miss_are_found(mode, nuclei2d):
    n = len(ids_of(nuclei2d))
    models = [perturbed(nuclei2d, seed=k, missed=0.1) for k in range(3)]
    labels, scores, report = fused(models, mode=mode)
    alone = [f1(nuclei2d.astype(np.int32), one) for one, _ in models]
    assert f1(nuclei2d.astype(np.int32), labels) > max(alone)
    assert len(scores) == report.n_labels
    assert abs(report.n_cells - n) <= 3


@pytest.mark.parametrize("mode", MODES)
def test_real_nuclei_are_the_oracles(mode, nuclei2d):
    part = nuclei2d[150:300, 150:300]
    models = [perturbed(part, seed=k, missed=0.1) for k in range(3)]
    labels, scores, report = fused(models, mode=mode)
    expected, expected_scores, expected_report = oracle(models, mode=mode)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-14)  # as above
    assert report == expected_report
    assert report.n_matched > 5


def test_a_volume_is_fused(nuclei3d):
    models = [perturbed(nuclei3d, seed=k) for k in range(2)]
    labels, scores, report = fused(models)
    assert labels.shape == nuclei3d.shape
    assert report.n_labels == len(scores) == labels.max()
    assert report.n_matched > 0.9 * len(ids_of(nuclei3d))


# ---- rules --------------------------------------------------------------------------------------


def line(*ids):
    return np.array([ids])


def test_two_of_one_confidence_give_their_union_and_else_the_better_one_decides():
    a, b = line(1, 1, 1, 0), line(0, 1, 1, 1)
    assert ensemble.fuse([(a, [0.5]), (b, [0.5])]).tolist() == [[1, 1, 1, 1]]
    assert ensemble.fuse([(a, [0.5]), (b, [0.6])]).tolist() == [[0, 1, 1, 1]]
    assert ensemble.fuse([(a, [0.5]), (b, [0.6])], weights=[2, 1]).tolist() == [[1, 1, 1, 0]]
    assert ensemble.fuse([(a, [0.0]), (b, [0.0])], weights=[1, 2]).tolist() == [[0, 1, 1, 1]]


def test_the_next_best_is_matched_where_the_best_is_taken():
    a = line(1, 1, 1, 1, 1, 2, 2, 2)
    b = line(0, 3, 3, 3, 3, 3, 4, 4)
    # 1-3 and 2-4 match; 2-3 overlap, too.
    labels, _, report = fused([(a, [0.9, 0.8]), (b, [0.7, 0.6])])
    assert labels.tolist() == a.tolist()
    assert (report.n_cells, report.n_matched) == (2, 2)


def test_no_cell_has_two_instances_of_a_model():
    a = line(1, 1, 1, 2, 2, 2)
    b = line(3, 3, 3, 3, 3, 3)
    labels, scores, report = fused([(a, [0.5, 0.5]), (b, [0.25])], mode="best")
    assert report.n_cells == 2
    assert labels.tolist() == [[1, 1, 1, 2, 2, 2]]
    assert scores.tolist() == [0.5, 0.5]
    # Equal IoUs: the one with the higher score is matched.
    labels, scores, _ = fused([(a, [0.5, 0.75]), (b, [0.25])])
    assert scores.tolist() == [0.5, 0.5]


def test_iou_has_to_be_above_the_threshold():
    a, b = line(1, 1, 0), line(0, 1, 1)
    assert fused([(a, [1]), (b, [1])], iou_threshold=1 / 3)[2].n_cells == 2
    assert fused([(a, [1]), (b, [1])], iou_threshold=0.33)[2].n_cells == 1


def test_a_cell_under_others_is_reported_empty():
    a, b = line(1, 1, 1, 1, 1, 1, 1, 1), line(0, 1, 0, 0, 0, 0, 0, 0)
    labels, _, report = fused([(a, [0.9]), (b, [0.8])])
    assert labels.max() == report.n_labels == 1
    assert (report.n_cells, report.n_empty) == (2, 1)


def test_scores_of_lone_cells_are_held_against_the_threshold():
    a, b = line(1, 1, 0, 2), line(1, 1, 0, 0)
    models = [(a, [0.1, 0.4]), (b, [0.1])]
    assert ensemble.fuse(models, score_threshold=0.4).tolist() == [[1, 1, 0, 2]]
    labels, _, report = fused(models, score_threshold=0.5)
    assert labels.tolist() == [[1, 1, 0, 0]]  # two models found it
    assert report.n_low == 1


def test_scores_come_in_many_forms():
    labels = line(0, 10**12, 5, 7)
    expected = [0.25, 0.75, 0.5]
    forms = (
        [0.75, 0.5, 0.25],
        (0.75, 0.5, 0.25),
        np.array([0.75, 0.5, 0.25], np.float32),
        {5: 0.75, 7: 0.5, 10**12: 0.25, 99: 9.0},
        {np.int64(5): 0.75, np.int64(7): np.float32(0.5), 10**12: 0.25},
    )
    for scores in forms:
        got = ensemble.fuse([(labels, scores)], return_scores=True)[1]
        assert got.tolist() == expected


# ---- arrays and errors --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_kinds_of_arrays(kind, mode):
    models = [perturbed(simulate.blobs((50, 40), 20, seed=1), seed=k) for k in range(2)]
    expected = fused(models, mode=mode)
    put = [(kind.put(labels), kind.put(scores)) for labels, scores in models]
    labels, scores, report = fused(put, mode=mode, out_dtype=np.int64)
    assert kind.owns(labels)
    assert kind.owns(scores)
    np.testing.assert_array_equal(kind.get(labels), expected[0])
    np.testing.assert_array_equal(kind.get(scores), expected[1])
    assert kind.get(labels).dtype == np.int64
    assert report == expected[2]


def test_pieces_strides_and_narrow_dtypes(monkeypatch):
    models = [perturbed(simulate.blobs((50, 40), 20, seed=1), seed=k) for k in range(3)]
    expected = ensemble.fuse(models)
    for dtype in (np.uint8, np.int16, np.uint64, ">i4"):
        as_dtype = [(labels.astype(dtype), scores) for labels, scores in models]
        np.testing.assert_array_equal(ensemble.fuse(as_dtype), expected)
    frozen = [(np.asfortranarray(labels), scores) for labels, scores in models]
    for labels, _ in frozen:
        labels.flags.writeable = False
    np.testing.assert_array_equal(ensemble.fuse(iter(frozen)), expected)
    monkeypatch.setattr(ensemble, "_CHUNK", 7)
    np.testing.assert_array_equal(ensemble.fuse(models), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (2, 3), (0, 2, 2)], ids=str)
def test_nothing_found_is_no_error(shape, mode):
    empty = (np.zeros(shape, np.uint8), [])
    for models in ([empty], [empty] * 3):
        labels, scores, report = fused(models, mode=mode)
        assert labels.shape == shape
        assert not labels.any()
        assert scores.shape == (0,)
        assert report.n_labels == report.n_cells == 0


def test_more_than_64_models():
    labels = simulate.blobs((12, 15), 4, seed=2)
    scores = np.full(len(ids_of(labels)), 0.3)
    models = [(labels, scores)] * 70
    got, found, report = fused(models, mode="vote")
    np.testing.assert_array_equal(got, in_raster_order(labels)[0])
    assert (found == 0.3).all()
    assert report.n_cells == len(scores)


def test_many_objects_need_little_time_and_no_matrix():
    one = np.arange(1, 1_000_001, 4, dtype=np.int32).reshape(500, 500)
    one = np.kron(one, np.ones((2, 2), np.int32))
    models = [(one, np.linspace(0, 1, 250_000)), (one[::-1], np.linspace(1, 0, 250_000))]
    assert ensemble.fuse(models).max() == 250_000


ONE = np.ones((2, 3), np.int32)
GOOD = (ONE, [0.5])


@pytest.mark.parametrize(
    ("models", "options", "error", "says"),
    [
        ([], {}, ValueError, "models: expected at least one"),
        (7, {}, TypeError, "models: .*int"),
        ([GOOD, ONE], {}, TypeError, r"models\[1\]: expected \(labels, scores\)"),
        ([GOOD, (ONE,)], {}, ValueError, r"models\[1\]: expected \(labels, scores\); got 1"),
        ([GOOD, ([[1]], [1])], {}, TypeError, r"models\[1\]: .*list"),
        ([GOOD, (ONE * 1.0, [1])], {}, TypeError, r"models\[1\]: .*float64"),
        ([GOOD, (ONE[:1], [1])], {}, ValueError, r"models\[1\]: .*\(2, 3\); got \(1, 3\)"),
        ([(ONE[0], [1])], {}, ValueError, r"models\[0\]: .*\(3,\)"),
        ([GOOD, (-ONE, [1])], {}, ValueError, r"models\[1\]: .*-1"),
        ([GOOD, (ONE, [1, 2])], {}, ValueError, r"models\[1\]: .*each of 1 ids; got shape \(2,\)"),
        ([GOOD, (ONE, [])], {}, ValueError, r"models\[1\]: .*each of 1 ids; got shape \(0,\)"),
        ([GOOD, (ONE, {2: 1.0})], {}, ValueError, r"models\[1\]: .*the first 1"),
        ([(ONE, ["x"])], {}, TypeError, r"models\[0\]: expected numbers"),
        ([(ONE, [np.nan])], {}, ValueError, r"models\[0\]: expected finite scores.*nan"),
        ([(ONE, [-0.5])], {}, ValueError, r"models\[0\]: expected finite scores.*-0.5"),
        ([GOOD], {"iou_threshold": 1.5}, ValueError, "iou_threshold: .*1.5"),
        ([GOOD], {"iou_threshold": np.nan}, ValueError, "iou_threshold: .*nan"),
        ([GOOD], {"mode": "mean"}, ValueError, "mode: .*'mean'"),
        ([GOOD], {"score_threshold": np.nan}, ValueError, "score_threshold: .*nan"),
        ([GOOD], {"score_threshold": "x"}, TypeError, "score_threshold: .*'x'"),
        ([GOOD], {"weights": [1, 2]}, ValueError, "weights: .*each of 1; got 2"),
        ([GOOD], {"weights": [0]}, ValueError, "weights: .*above 0"),
        ([GOOD], {"weights": ["x"]}, TypeError, "weights: .*'x'"),
        ([GOOD], {"min_votes": 1}, ValueError, "min_votes: .*'weighted'"),
        ([GOOD], {"mode": "vote", "min_votes": 2}, ValueError, "min_votes: expected 1 to 1"),
        ([GOOD], {"mode": "vote", "min_votes": 0.5}, TypeError, "min_votes: .*0.5"),
        ([GOOD], {"out_dtype": float}, TypeError, "out_dtype"),
    ],
)
def test_bad_input_is_named(models, options, error, says):
    with pytest.raises(error, match=says):
        ensemble.fuse(models, **options)


def test_libraries_are_not_mixed():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"models\[1\]: .*torch"):
        ensemble.fuse([GOOD, (torch.ones((2, 3), dtype=torch.int32), [1])])


# ---- maps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_mean_is_the_weighted_one(dtype, kind):
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, 7, 5)).astype(dtype) for _ in range(3)]
    got = ensemble.mean_maps([kind.put(m) for m in maps], weights=[1, 2, 0.5])
    expected = sum(w * m.astype(np.float64) for w, m in zip([1, 2, 0.5], maps, strict=True)) / 3.5
    assert kind.owns(got)
    assert kind.get(got).dtype == dtype
    np.testing.assert_array_equal(kind.get(got), expected.astype(dtype))


def test_maps_that_are_alike_come_back():
    one = np.random.default_rng(1).normal(size=(3, 40, 50)).astype(np.float32)
    one[0, 0, :3] = np.nan, np.inf, -np.inf
    for n in (1, 2, 3, 7):
        np.testing.assert_array_equal(ensemble.mean_maps([one] * n), one)
        np.testing.assert_array_equal(ensemble.mean_maps([one] * n, [0.1] * n), one)
    assert ensemble.mean_maps([one]) is not one
    assert ensemble.mean_maps([one[:, :0]]).shape == (3, 0, 50)


@pytest.mark.parametrize(
    ("maps", "options", "error", "says"),
    [
        ([], {}, ValueError, "maps: expected at least one"),
        ([ONE], {}, TypeError, r"maps\[0\]: expected a floating dtype; got int32"),
        ([ONE * 1.0, ONE.astype(np.float32)], {}, TypeError, r"maps\[1\]: .*float64; got float32"),
        ([ONE * 1.0, ONE[:1] * 1.0], {}, ValueError, r"maps\[1\]: .*\(2, 3\); got \(1, 3\)"),
        ([ONE * 1.0], {"weights": [1, 1]}, ValueError, "weights: .*each of 1; got 2"),
        ([ONE * 1.0], {"weights": [np.inf]}, ValueError, "weights: .*above 0"),
        ([[1.0]], {}, TypeError, r"maps\[0\]: .*list"),
    ],
)
def test_bad_maps_are_named(maps, options, error, says):
    with pytest.raises(error, match=says):
        ensemble.mean_maps(maps, **options)
