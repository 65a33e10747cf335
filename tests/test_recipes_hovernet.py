"""The weakly supervised HoVer-Net's recipe, row by row of its table, against the slow oracle."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import simulate
from recipe_networks import F, Spy
from recipe_rows import row
from reference import watershed as ref

import cellpost
from cellpost import metrics
from cellpost.recipes import hovernet_weak
from cellpost.synthetic import HoverNetwork, Scene

ONE_TILE = {"channel_axis": 0, "tile": 64}


def identity(batch):
    return batch.copy()


@pytest.fixture(scope="module")
def maps():
    """Noisy maps in which each number of the table matters."""
    labels = simulate.blobs((40, 48), 10, seed=1, radius=(3, 9))
    hover = simulate.hover_from_labels(labels, noise=0.15, seed=2)
    return np.concatenate([hover.prob[None], hover.hv]).astype(F)


@pytest.fixture(scope="module")
def expected(maps):
    return oracle(maps)


def oracle(maps, **options):
    numbers = {"threshold": 0.5, "border_threshold": 0.7, "ksize": 3, "radius": 2, "min_size": 10}
    return ref.hover_watershed(maps[0], maps[1:3], **{**numbers, **options})


@row("D. HoVer-Net", "foreground")
@row("D. HoVer-Net", "instance border")
@row("D. HoVer-Net", "distance map")
@row("D. HoVer-Net", "markers")
@row("D. HoVer-Net", "watershed")
def test_all_numbers_of_the_table_together(maps, expected):
    got = hovernet_weak(maps, identity, **ONE_TILE)
    np.testing.assert_array_equal(got, expected)
    assert got.max() > 3


@row("D. HoVer-Net", "foreground")
@row("D. HoVer-Net", "instance border")
@row("D. HoVer-Net", "markers")
@pytest.mark.parametrize(
    "other",
    [
        {"threshold": 0.35},
        {"border_threshold": 0.4},  # the original
        {"ksize": 21},  # the original
        {"ksize": 5},  # MONAI's default
        {"radius": 1},
        {"min_size": 40},
    ],
    ids=str,
)
def test_each_number_matters(maps, expected, other):
    got = hovernet_weak(maps, identity, **ONE_TILE, **other)
    np.testing.assert_array_equal(got, oracle(maps, **other))
    assert not np.array_equal(got, expected)


@row("D. HoVer-Net", "instance border")
@row("D. HoVer-Net", "markers")
def test_the_originals_numbers_are_the_functions_defaults(maps):
    prob, hv = maps[0], maps[1:]
    original = oracle(maps, ksize=21, border_threshold=0.4)
    np.testing.assert_array_equal(cellpost.hover_watershed(prob, hv), original)
    monai = cellpost.hover_watershed(prob, hv, style="monai", ksize=5, border_threshold=0.4)
    np.testing.assert_array_equal(cellpost.hover_watershed(prob, hv, style="monai"), monai)


@row("D. HoVer-Net", "heads")
def test_two_channels_of_logits_and_types_that_are_left_out(maps, expected):
    rng = np.random.default_rng(0)
    background = rng.standard_normal((1, 40, 48), F)
    logit = np.log(maps[:1] / (1 - maps[:1]))
    every = [background, background + logit, maps[1:], rng.standard_normal((5, 40, 48), F)]
    image = np.concatenate(every).astype(F)
    differs = 0
    for n in (4, 9):
        got = hovernet_weak(image[:n], identity, activation="softmax", **ONE_TILE)
        differs += (got != expected).sum()
    # A pixel within rounding of the threshold may change sides.
    assert differs <= 2
    sure = np.concatenate([logit, maps[1:]])
    got = hovernet_weak(sure, identity, activation="sigmoid", **ONE_TILE)
    assert (got != expected).sum() <= 1


@row("D. HoVer-Net", "foreground")
def test_pixels_at_0_5_count_and_specks_of_fewer_than_10_pixels_go():
    maps = np.zeros((3, 64, 64), F)
    maps[0, 5:8, 5:8] = 0.9  # 9 pixels
    maps[0, 20:40, 20:40] = 0.5
    maps[0, 50:60, 50:60] = np.nextafter(F(0.5), F(0))
    y, x = np.indices((64, 64))
    maps[1], maps[2] = (x - 29.5) / 40, (y - 29.5) / 40
    got = hovernet_weak(maps, identity, **ONE_TILE)
    np.testing.assert_array_equal(got > 0, (maps[0] >= 0.5) & (y >= 10))
    assert got.max() == 1


@row("D. HoVer-Net", "markers")
def test_the_disk_is_the_originals_ellipse():
    rows = ["00100", "11111", "11111", "11111", "00100"]
    assert ref.footprint(2, "ellipse").astype(int).tolist() == [[int(c) for c in r] for r in rows]


@row("D. HoVer-Net", "watershed")
def test_floods_cross_edges_and_no_corners():
    prob = np.zeros((64, 64), F)
    prob[10:30, 10:30] = prob[30:34, 30:34] = 1  # meet at a corner
    y, x = np.indices((64, 64))
    got = hovernet_weak(
        np.stack([prob, (x - 19.5) / 20, (y - 19.5) / 20]).astype(F), identity, **ONE_TILE
    )
    assert got[20, 20] == 1
    assert (got[31, 31], (got == 1).sum()) != (1, 416)


@row("D. HoVer-Net", "reliability (ST++)")
def test_images_are_ranked_by_f1_of_checkpoints_against_the_last_and_the_better_half_is_first():
    rng = np.random.default_rng(1)
    last = [simulate.blobs((60, 60), 12, seed=seed) for seed in range(4)]
    shares = [0.9, 0.2, 0.6, 0.4]
    images = []
    for labels, share in zip(last, shares, strict=True):
        ids = np.unique(labels)[1:]
        earlier = [
            np.where(np.isin(labels, rng.choice(ids, round(share * len(ids)), False)), labels, 0)
            for _ in range(2)
        ]
        images.append([*earlier, labels])
    ranked = metrics.rank_by_reliability(images)
    expected = [np.mean([metrics.f1(last, one) for one in earlier]) for *earlier, last in images]
    np.testing.assert_allclose(ranked.stability, expected)
    assert ranked.order.tolist() == [0, 2, 3, 1]
    assert (ranked.reliable.tolist(), ranked.unreliable.tolist()) == ([0, 2], [3, 1])


# ---- tiles --------------------------------------------------------------------------------------


def test_tiles_of_256_overlap_by_a_half_and_with_a_margin_or_the_paper_not():
    scene = Scene((400, 500), "nuclei", diameter=26, seed=3)
    truth = scene.labels[...]
    for how, n_tiles in (({}, 3 * 3), ({"paper": True}, 2 * 2)):
        network = Spy(HoverNetwork(noise=0.05))
        found = hovernet_weak(scene.encoded, network, channel_axis=0, **how)
        assert {shape[2:] for shape in network.shapes} == {(256, 256)}
        assert sum(shape[0] for shape in network.shapes) == n_tiles
        assert max(shape[0] for shape in network.shapes) == 4
        assert metrics.f1(truth, found, exclude_border=2) >= (0.9 if how else 0.93)


def test_outputs_of_164_of_tiles_of_256():
    hover = simulate.hover_from_labels(simulate.blobs((200, 340), 60, seed=2))
    maps = np.concatenate([hover.prob[None], hover.hv]).astype(F)
    network = Spy(lambda batch: batch[..., 46:-46, 46:-46])
    got = hovernet_weak(maps, network, channel_axis=0, margin=46)
    assert [shape[2:] for shape in network.shapes] == [(256, 256)] * 2
    assert sum(shape[0] for shape in network.shapes) == 2 * 3  # 164 pixels each
    np.testing.assert_array_equal(got, hovernet_weak(maps, identity, channel_axis=0))


def test_published_chain():
    scene = Scene((520, 600), "nuclei", diameter=26, seed=8)
    found = hovernet_weak(scene.encoded, HoverNetwork(noise=0.02), channel_axis=0)
    assert metrics.f1(scene.labels[...], found, exclude_border=2) >= 0.95


def test_what_the_network_tells_at_the_borders_of_tiles_shows_in_the_paper():
    scene = Scene((520, 600), "nuclei", diameter=40, seed=8)
    truth, network = scene.labels[...], HoverNetwork(noise=0.02)
    how = {"channel_axis": 0, "tile": 128}
    ours = hovernet_weak(scene.encoded, network, **how)
    theirs = hovernet_weak(scene.encoded, network, paper=True, **how)
    f1 = [metrics.f1(truth, labels, exclude_border=2) for labels in (ours, theirs)]
    assert f1[0] > f1[1]


def test_defaults():
    defaults = {k: p.default for k, p in inspect.signature(hovernet_weak).parameters.items()}
    expected = {"threshold": 0.5, "border_threshold": 0.7, "ksize": 3, "radius": 2, "min_size": 10}
    assert {name: defaults[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image": object()}, TypeError, "^image: expected an array"),
        ({"model": 1}, TypeError, "^model: expected a PyTorch module"),
        ({"model": lambda b: b[:, :2]}, ValueError, "^model: expected 3 or more channels"),
        ({"model": lambda b: b[..., 1:]}, ValueError, "^model: expected shape"),
        ({"model": lambda b: b * np.nan}, ValueError, "^model: expected no NaN"),
        ({"model": lambda b: 1 / 0}, RuntimeError, "^model: ZeroDivisionError.*in tile 0"),
        ({"normalize": "max"}, ValueError, "^normalize: expected"),
        ({"tile": 0}, ValueError, "^tile: expected"),
        ({"margin": -1}, ValueError, "^margin: expected"),
        ({"margin": 32}, ValueError, "^tile: expected more than twice"),
        ({"overlap": 1.0}, ValueError, "^overlap: expected"),
        ({"batch_size": 0}, ValueError, "^batch_size: expected"),
        ({"padding": "mirror"}, ValueError, "^padding: expected"),
        ({"activation": "tanh"}, ValueError, "^activation: expected"),
        ({"threshold": "half"}, TypeError, "^threshold: expected"),
        ({"border_threshold": np.nan}, ValueError, "^border_threshold: expected"),
        ({"ksize": 4}, ValueError, "^ksize: expected"),
        ({"radius": -1}, ValueError, "^radius: expected"),
        ({"min_size": 1.5}, TypeError, "^min_size: expected"),
        ({"channel_axis": 7}, ValueError, "^channel_axis: expected"),
    ],
)
def test_bad_input(arguments, error, message):
    network = Spy(identity)
    given = {"image": np.zeros((3, 64, 64), F), "model": network, **ONE_TILE, **arguments}
    with pytest.raises(error, match=message):
        hovernet_weak(**given)
    assert network.shown == []  # before the network has worked


def test_no_nucleus_is_cut(maps, expected):
    """Of tiles that agree on the maps, whatever the size."""
    for how in ({"tile": 24}, {"tile": 40, "overlap": 0.0}):
        got = hovernet_weak(maps, identity, channel_axis=0, **how)
        np.testing.assert_array_equal(got, expected)
