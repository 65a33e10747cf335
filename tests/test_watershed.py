"""The watershed family against the slow oracle, SciPy, scikit-image, OpenCV's chain and MONAI's."""

from __future__ import annotations

import warnings

import numpy as np
import peers
import pytest
import simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import watershed as ref
from scipy import ndimage

import cellpost

F = np.float32


def random_mask(shape, density, seed=0):
    return np.random.default_rng(seed).random(shape) < density


def same_partition(a, b):
    """Whether two label images have the same background and objects, ids aside."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


# ---- components, holes, opening -----------------------------------------------------------------

SHAPES = [(1, 1), (1, 70), (70, 1), (33, 64), (40, 65), (67, 130), (5, 6, 7), (3, 20, 66)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.45, 0.6, 0.9, 1.0])
def test_label_gives_scipys_ids(shape, density, device):
    mask = random_mask(shape, density)
    for connectivity in range(1, len(shape) + 1):
        structure = ndimage.generate_binary_structure(len(shape), connectivity)
        expected, _ = ndimage.label(mask, structure)
        got = device.get(cellpost.label(device.put(mask), connectivity=connectivity))
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "uint64"])
def test_label_takes_integers_as_scipy_does(dtype, device):
    image = np.random.default_rng(0).integers(0, 3, (40, 50)).astype(dtype)
    got = device.get(cellpost.label(device.put(image), out_dtype="uint16"))
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, ndimage.label(image)[0])


def test_label_of_long_detours(device):
    # A spiral and a comb: runs that meet late, from the right and from below.
    mask = np.zeros((129, 200), bool)
    for k in range(0, 60, 4):
        mask[k, k : 200 - k] = mask[128 - k, k : 200 - k] = True
        mask[k : 129 - k, k] = mask[k + 4 : 129 - k, 199 - k] = True
    mask[60:70, ::2] = True
    np.testing.assert_array_equal(
        device.get(cellpost.label(device.put(mask))), ndimage.label(mask)[0]
    )


def test_label_refuses_more_components_than_the_dtype_holds():
    mask = np.zeros((40, 40), bool)
    mask[::2, ::2] = True
    with pytest.raises(OverflowError, match="out_dtype: expected a dtype that holds ids up to 400"):
        cellpost.label(mask, out_dtype="uint8")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("density", [0.3, 0.6, 0.8, 1.0])
def test_holes_are_scipys(shape, density, device):
    mask = random_mask(shape, density, seed=1)
    for connectivity in range(1, len(shape) + 1):
        got = device.get(cellpost.binary_fill_holes(device.put(mask), connectivity=connectivity))
        assert got.dtype == bool
        np.testing.assert_array_equal(got, ref.fill_holes(mask, connectivity))


@pytest.mark.parametrize("footprint", ["disk", "ellipse"])
@pytest.mark.parametrize("radius", [0, 1, 2, 3, 7, 31])
@pytest.mark.parametrize("shape", [(1, 1), (3, 90), (70, 64), (60, 131)], ids=str)
def test_opening_is_the_oracles(shape, radius, footprint, device):
    mask = ndimage.binary_dilation(random_mask(shape, 0.02, seed=2), iterations=max(radius, 1) + 2)
    got = device.get(cellpost.binary_opening(device.put(mask), radius=radius, footprint=footprint))
    np.testing.assert_array_equal(got, ref.opening(mask, radius, footprint))


@pytest.mark.parametrize("radius", [1, 2, 3, 4, 5, 8, 13])
def test_opening_is_opencvs_and_scikit_images(radius):
    cv2 = pytest.importorskip("cv2")
    morphology = pytest.importorskip("skimage.morphology")
    mask = ndimage.binary_dilation(random_mask((90, 120), 0.01, seed=3), iterations=radius + 1)
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    expected = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, element)
    got = cellpost.binary_opening(mask, radius=radius, footprint="ellipse")
    np.testing.assert_array_equal(got, expected > 0)
    expected = morphology.opening(mask.astype(np.uint8), morphology.disk(radius))
    np.testing.assert_array_equal(cellpost.binary_opening(mask, radius=radius), expected > 0)


def test_label_of_a_volume_whose_runs_join_from_right_to_left(device):
    # The chains that this makes are halved as they are walked: tests/cpp/test_core.cpp.
    # Teeth side by side, each joined to its left neighbour a row later than to its right one.
    n = 1024
    mask = np.zeros((2, n // 2, n), bool)
    mask[:, :, ::2] = True
    rows = np.arange(n // 2 - 1)
    mask[0, rows, n - 3 - 2 * rows] = True
    labels = device.get(cellpost.label(device.put(mask)))
    np.testing.assert_array_equal(labels, ndimage.label(mask)[0])


# ---- watershed ----------------------------------------------------------------------------------


def field(shape, seed, kind):
    rng = np.random.default_rng(seed)
    if kind == "float":
        return rng.standard_normal(shape).astype(F)
    if kind == "smooth":
        return ndimage.gaussian_filter(rng.standard_normal(shape), 2)
    if kind == "8-bit":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.integers(-2, 3, shape, dtype=np.int16)  # mostly ties


def markers_in(shape, seed, share=0.02):
    rng = np.random.default_rng(seed + 100)
    ids = rng.integers(1, 40, shape, dtype=np.int32)
    return np.where(rng.random(shape) < share, ids, 0).astype(np.int32)


@pytest.mark.parametrize("kind", ["float", "smooth", "8-bit", "ties"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (31, 33), (6, 9, 11)], ids=str)
def test_watershed_is_the_oracles_ties_included(shape, kind, device):
    for seed in range(4):
        energy, markers = field(shape, seed, kind), markers_in(shape, seed)
        mask = None if seed == 0 else random_mask(shape, 0.65 + 0.1 * seed, seed)
        for connectivity in range(1, len(shape) + 1):
            got = cellpost.watershed(
                device.put(energy),
                device.put(markers),
                mask=None if mask is None else device.put(mask),
                connectivity=connectivity,
            )
            expected = ref.watershed(energy, markers, mask=mask, connectivity=connectivity)
            np.testing.assert_array_equal(device.get(got), expected)


@pytest.mark.parametrize("kind", ["float", "smooth", "8-bit"])
@pytest.mark.parametrize("connectivity", [1, 2])
def test_watershed_is_scikit_images_where_no_markers_tie(kind, connectivity, device):
    segmentation = pytest.importorskip("skimage.segmentation", minversion="0.26")
    energy = field((150, 170), 7, kind)
    markers = np.zeros(energy.shape, np.int32)
    rng = np.random.default_rng(5)
    order = rng.permutation(energy.size)
    # one marker a value: markers of equal energy are what scikit-image leaves open
    chosen = order[np.unique(energy.ravel()[order], return_index=True)[1]][:200]
    markers.ravel()[chosen] = np.arange(1, len(chosen) + 1)
    mask = random_mask(energy.shape, 0.8, seed=8)
    expected = segmentation.watershed(energy, markers, mask=mask, connectivity=connectivity)
    got = cellpost.watershed(
        device.put(energy), device.put(markers), mask=device.put(mask), connectivity=connectivity
    )
    np.testing.assert_array_equal(device.get(got), expected)


def test_watershed_of_a_distance_transform_is_scikit_images_but_where_markers_tie(nuclei2d):
    segmentation = pytest.importorskip("skimage.segmentation", minversion="0.26")
    mask = nuclei2d > 0
    distance = ndimage.distance_transform_edt(mask)
    peaks = (ndimage.maximum_filter(distance, 9) == distance) & mask
    markers, _ = ndimage.label(peaks)
    got = cellpost.watershed(-distance, markers.astype(np.int32), mask=mask)
    expected = segmentation.watershed(-distance, markers, mask=mask)
    components, n = ndimage.label(mask)
    level = -distance[markers > 0]
    tied = set()
    for c in range(1, n + 1):
        own = level[components[markers > 0] == c]
        ids = np.unique(markers[components == c])
        if len(np.unique(own)) < len(own) and len(ids) > 2:
            tied.add(c)
    free = ~np.isin(components, list(tied))
    np.testing.assert_array_equal(got[free], expected[free])
    differ = np.unique(components[got != expected])
    assert set(differ.tolist()) <= tied
    assert len(tied) < n / 2  # the test would say little if all were


@pytest.mark.parametrize(
    "dtype", [f"{kind}{n}" for kind in ("float", "int", "uint") for n in (8, 16, 32, 64)][1:]
)
def test_energy_of_any_dtype_is_compared_exactly(dtype):
    rng = np.random.default_rng(3)
    if np.dtype(dtype).kind == "f":
        energy = rng.standard_normal((40, 41)).astype(dtype)
    else:
        info = np.iinfo(dtype)
        energy = rng.integers(info.min, info.max, (40, 41), dtype=dtype, endpoint=True)
    ranks = np.unique(energy, return_inverse=True)[1].reshape(energy.shape)
    markers = markers_in(energy.shape, 4)
    np.testing.assert_array_equal(
        cellpost.watershed(energy, markers), cellpost.watershed(ranks, markers)
    )


def test_zeros_of_both_signs_are_equal_and_nan_is_flooded_last(device):
    for energy, expected in (
        ([[0.0, np.nan, 5.0, np.inf, 0.0]], [[1, 1, 2, 2, 2]]),
        ([[0.0, 0.0, -0.0, 0.0, 0.0, -0.0]], [[1, 1, 1, 2, 2, 2]]),
    ):
        markers = np.zeros((1, len(energy[0])), np.int32)
        markers[0, [0, -1]] = 1, 2
        got = cellpost.watershed(device.put(np.array(energy)), device.put(markers))
        assert device.get(got).tolist() == expected


def test_markers_keep_their_dtype_and_ids_and_count_only_in_the_mask(device):
    energy = np.zeros((1, 9))
    markers = np.array([[0, 7, 0, 0, 9, 0, 0, 2**40, 0]], np.int64)
    mask = np.array([[1, 1, 1, 1, 0, 1, 1, 0, 1]], np.uint8)
    got = cellpost.watershed(device.put(energy), device.put(markers), mask=device.put(mask))
    assert device.get(got).dtype == np.int64
    assert device.get(got).tolist() == [[7, 7, 7, 7, 0, 0, 0, 0, 0]]


def test_the_inputs_are_not_written_to():
    energy, markers = field((30, 30), 0, "float"), markers_in((30, 30), 0)
    mask = random_mask((30, 30), 0.8)
    before = [a.copy() for a in (energy, markers, mask)]
    for a in (energy, markers, mask):
        a.flags.writeable = False
    cellpost.watershed(energy, markers, mask=mask)
    for a, b in zip((energy, markers, mask), before, strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 50), st.integers(1, 50), st.sampled_from([1, 2]))
def test_flips_of_fields_without_ties_flip_the_answer(seed, h, w, connectivity):
    energy, markers = field((h, w), seed, "float").astype(np.float64), markers_in((h, w), seed, 0.1)
    got = cellpost.watershed(energy, markers, connectivity=connectivity)
    for axis in (0, 1):
        flipped = cellpost.watershed(
            np.flip(energy, axis), np.flip(markers, axis), connectivity=connectivity
        )
        np.testing.assert_array_equal(np.flip(flipped, axis), got)


# ---- HoVer maps ---------------------------------------------------------------------------------


def small_maps(shape, noise=0.2, seed=0):
    labels = simulate.blobs(shape, 12, seed=seed, radius=(4, 8))
    return simulate.hover_from_labels(labels, noise=noise, seed=seed)


@pytest.mark.parametrize("style", ["hovernet", "monai"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (25, 1), (3, 40), (30, 37)], ids=str)
def test_hover_maps_are_the_oracles(style, shape, device):
    maps = small_maps(shape)
    options = {"style": style, "min_size": 4, "radius": 1, "ksize": 5}
    got = cellpost.watershed_markers(device.put(maps.prob), device.put(maps.hv), **options)
    expected = ref.watershed_markers(maps.prob, maps.hv, **options)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(device.get(mine), theirs)
    labels = cellpost.hover_watershed(device.put(maps.prob), device.put(maps.hv), **options)
    np.testing.assert_array_equal(
        device.get(labels), ref.hover_watershed(maps.prob, maps.hv, **options)
    )
    assert min(shape) < 30 or device.get(labels).max() > 3


@pytest.mark.parametrize("ksize", [3, 7, 21, 31])
@pytest.mark.parametrize("style", ["hovernet", "monai"])
def test_derivatives_are_the_oracles(style, ksize, device):
    hv = np.random.default_rng(1).standard_normal((2, 14, 300)).astype(F)
    hv[:, 3, 5:8] = [[np.nan, np.inf, -np.inf]] * 2
    got = device.get(cellpost.hover_gradients(device.put(hv), style=style, ksize=ksize))
    cut = hv[:, :, :40] if style == "monai" else hv  # the oracle takes a second per 1,000 pixels
    got = (
        got
        if cut is hv
        else device.get(cellpost.hover_gradients(device.put(cut), style=style, ksize=ksize))
    )
    expected = ref.hover_gradients(cut, style=style, ksize=ksize)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("ksize", [3, 5, 9, 21, 31])
@pytest.mark.parametrize("shape", [(90, 300), (9, 40), (40, 7)], ids=str)
def test_derivatives_are_opencvs(shape, ksize):
    cv2 = pytest.importorskip("cv2")
    hv = np.random.default_rng(2).standard_normal((2, *shape)).astype(F)
    got = cellpost.hover_gradients(hv, ksize=ksize)
    for c in (0, 1):
        unit = cv2.normalize(hv[c], None, 0, 1, cv2.NORM_MINMAX, cv2.CV_32F)
        expected = cv2.Sobel(unit, cv2.CV_64F, 1 - c, c, ksize=ksize)
        np.testing.assert_array_equal(got[c], expected)


@pytest.fixture(scope="module")
def opencv():
    """Skips where what HoVer-Net's post-processing calls is absent."""
    pytest.importorskip("cv2")
    pytest.importorskip("skimage", minversion="0.26")


def tiled(labels, size):
    turned = simulate.tile(labels, np.zeros((2, *labels.shape), F), (size, size))[0]
    return turned


@pytest.mark.usefixtures("opencv")
@pytest.mark.parametrize(
    ("size", "noise"), [(512, 0), (512, 0.1), (512, 0.2), (512, 0.4), (2048, 0.1)]
)
def test_hovernet_on_real_nuclei_is_the_original_chain(size, noise, nuclei2d, device):
    maps = simulate.hover_from_labels(tiled(nuclei2d, size), noise=noise, seed=1)
    prob = maps.prob.astype(F)
    markers, energy, mask = peers.hovernet_markers(prob, maps.hv)
    got = [device.get(a) for a in cellpost.watershed_markers(device.put(prob), device.put(maps.hv))]
    np.testing.assert_array_equal(got[2], mask > 0)
    np.testing.assert_array_equal(got[0], cellpost.label(markers > 0))
    np.testing.assert_array_equal(got[1], energy)
    labels = device.get(cellpost.hover_watershed(device.put(prob), device.put(maps.hv)))
    expected = cellpost.relabel(peers.hovernet(prob, maps.hv).astype(np.int32))
    # The energies of noisy maps hardly ever tie; of maps without noise they may.
    differ = np.count_nonzero(labels != expected)
    assert differ == 0 if noise else differ < 1e-4 * labels.size


@pytest.fixture(scope="module")
def monai():
    """MONAI's post-processing of HoVer maps."""
    pytest.importorskip("skimage", minversion="0.26")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return peers.monai_post()
    except ImportError as error:
        pytest.skip(f"monai cannot be imported: {error}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("ksize", "sigma", "threshold", "radius"),
    [(5, 1.0, 0.4, 2), (3, 1.0, 0.7, 2), (7, 1.7, 0.5, 3)],
)
def test_monai_on_real_nuclei_is_its_chain(ksize, sigma, threshold, radius, nuclei2d, monai):
    from monai.transforms import GaussianSmooth

    maps = simulate.hover_from_labels(nuclei2d, noise=0.1, seed=2)
    prob = np.clip(maps.prob, 1e-6, 1 - 1e-6)
    logits = np.log(np.stack([1 - prob, prob])).astype(F)
    mask = monai.GenerateWatershedMask()(logits)
    border = monai.GenerateInstanceBorder(kernel_size=ksize)(mask, maps.hv)
    energy = monai.GenerateDistanceMap(GaussianSmooth(sigma))(mask, border)
    markers = monai.GenerateWatershedMarkers(threshold, radius)(mask, border)
    labels = monai.Watershed()(energy, mask, markers)
    options = {
        "style": "monai",
        "activation": "softmax",
        "ksize": ksize,
        "sigma": sigma,
        "border_threshold": threshold,
        "radius": radius,
    }
    got = cellpost.watershed_markers(logits, maps.hv, **options)
    np.testing.assert_array_equal(got[2], np.asarray(mask)[0] > 0)
    np.testing.assert_array_equal(got[0], cellpost.label(np.asarray(markers)[0] > 0))
    np.testing.assert_array_equal(got[1], np.asarray(energy)[0])
    expected = cellpost.relabel(np.asarray(labels)[0].astype(np.int32))
    np.testing.assert_array_equal(cellpost.hover_watershed(logits, maps.hv, **options), expected)
    assert expected.max() > 100


def test_flooding_the_markers_is_the_whole_call(device):
    maps = small_maps((120, 150), noise=0.3)
    prob, hv = device.put(maps.prob), device.put(maps.hv)
    for style in ("hovernet", "monai"):
        for connectivity in (1, 2):
            markers, energy, mask = cellpost.watershed_markers(prob, hv, style=style)
            flooded = cellpost.watershed(energy, markers, mask=mask, connectivity=connectivity)
            whole, report = cellpost.hover_watershed(
                prob, hv, style=style, connectivity=connectivity, return_report=True
            )
            np.testing.assert_array_equal(device.get(cellpost.relabel(flooded)), device.get(whole))
            assert report.n_labels == device.get(whole).max() <= report.n_markers


def test_probabilities_logits_and_two_channels_say_the_same(device):
    maps = small_maps((60, 70), noise=0.1)
    prob = np.clip(maps.prob, 1e-4, 1 - 1e-4).astype(np.float64)
    logit = np.log(prob / (1 - prob))
    hv = device.put(maps.hv)
    expected = device.get(cellpost.hover_watershed(device.put(prob), hv, threshold=0.6))
    assert expected.any()
    for given_, activation in (
        (np.stack([1 - prob, prob]), None),
        (logit, "sigmoid"),
        (np.stack([np.zeros_like(logit), logit]), "softmax"),
    ):
        got = cellpost.hover_watershed(device.put(given_), hv, activation=activation, threshold=0.6)
        np.testing.assert_array_equal(device.get(got), expected)


def test_with_the_wholes_ranges_a_part_gives_the_wholes_answer():
    # Two groups of cells with 60 empty columns between: a part that cuts there and keeps the
    # kernel's reach of surroundings has the same cells.
    labels = simulate.blobs((90, 260), 160, seed=4, radius=(5, 9))
    labels[:, 100:160] = 0
    maps = simulate.hover_from_labels(labels, noise=0.05, seed=4)
    prob = np.where(labels > 0, maps.prob, 0).astype(F)
    maps.hv[:, 20, 30] = 30.0  # an outlier on the left moves all borders
    whole = cellpost.hover_watershed(prob, maps.hv)
    right = (slice(None), slice(130, None))
    ranges = cellpost.hover_ranges(maps.hv)
    part = cellpost.hover_watershed(
        prob[right],
        maps.hv[(slice(None), *right)],
        value_range=ranges.value,
        gradient_range=ranges.gradient,
    )
    assert part.max() > 10
    np.testing.assert_array_equal(part, cellpost.relabel(whole[right]))
    alone = cellpost.hover_watershed(prob[right], maps.hv[(slice(None), *right)])
    assert (alone != part).any()  # which is what the ranges are for


@pytest.mark.parametrize("style", ["hovernet", "monai"])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, np.nan, np.inf])
def test_constant_maps_have_no_markers_and_no_exception(style, value, device):
    prob, hv = np.ones((40, 50), F), np.full((2, 40, 50), value, F)
    got, report = cellpost.hover_watershed(
        device.put(prob), device.put(hv), style=style, return_report=True
    )
    assert not device.get(got).any()
    assert (report.n_regions, report.n_markers, report.n_unmarked) == (1, 0, 1)


def test_values_that_are_not_finite_are_background_or_zero(device):
    maps = small_maps((50, 60), noise=0.1)
    prob, hv = maps.prob.astype(F), maps.hv.copy()
    bad = random_mask(prob.shape, 0.05, seed=1)
    prob[bad] = np.resize([np.nan, np.inf, -np.inf], bad.sum())
    hv[0, bad] = np.resize([np.inf, np.nan], bad.sum())
    clean, zero = np.where(np.isfinite(prob), prob, 0), np.where(np.isfinite(hv), hv, 0)
    got = cellpost.hover_watershed(device.put(prob), device.put(hv))
    expected = cellpost.hover_watershed(clean, zero.astype(F))
    np.testing.assert_array_equal(device.get(got), expected)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (7, 0)])
def test_empty_maps_give_empty_labels(shape, device):
    labels, report = cellpost.hover_watershed(
        device.put(np.ones(shape, F)), device.put(np.ones((2, *shape), F)), return_report=True
    )
    assert device.get(labels).shape == shape
    assert report.n_labels == 0
    assert device.get(cellpost.label(device.put(np.ones(shape, bool)))).shape == shape
    empty = device.put(np.ones(shape, np.int32))
    assert device.get(cellpost.watershed(empty, empty)).shape == shape


def test_all_foreground_and_a_component_as_large_as_the_image(device):
    maps = small_maps((200, 300), noise=0.1)
    labels = device.get(
        cellpost.hover_watershed(device.put(np.ones((200, 300), F)), device.put(maps.hv))
    )
    assert labels.all()
    assert labels.max() > 1


def test_more_than_65535_nuclei():
    one = np.zeros((6, 6), F)
    one[1:5, 1:5] = 1
    n = 257
    prob = np.tile(one, (n, n))
    ramp = np.tile(np.array([0, -1, -0.4, 0.4, 1, 0], F), n)
    hv = np.stack(np.broadcast_arrays(ramp, ramp[:, None]))
    labels, report = cellpost.hover_watershed(
        prob, hv, ksize=3, radius=0, min_size=1, border_threshold=0.9, return_report=True
    )
    assert report.n_labels == labels.max() == n * n > 65535
    with pytest.raises(OverflowError, match="out_dtype"):
        cellpost.hover_watershed(
            prob, hv, ksize=3, radius=0, min_size=1, border_threshold=0.9, out_dtype="uint16"
        )


# ---- settings, kinds, layouts -------------------------------------------------------------------


def everything():
    maps = small_maps((300, 410), noise=0.2, seed=3)
    out = []
    for style in ("hovernet", "monai"):
        out += [
            *cellpost.watershed_markers(maps.prob, maps.hv, style=style),
            cellpost.hover_watershed(maps.prob, maps.hv, style=style, min_size=3),
            cellpost.hover_gradients(maps.hv, style=style),
        ]
    mask = random_mask((200, 333), 0.6)
    energy, markers = field(mask.shape, 1, "8-bit"), markers_in(mask.shape, 1)
    out += [
        cellpost.label(mask),
        cellpost.label(mask, connectivity=2),
        cellpost.binary_fill_holes(mask),
        cellpost.binary_opening(~mask, radius=1),
        cellpost.watershed(energy, markers, mask=mask),
        cellpost.watershed(energy, markers),
    ]
    return [a.tobytes() for a in out]


@pytest.mark.usefixtures("restore_settings")
def test_threads_and_instruction_sets_do_not_change_a_byte():
    cellpost.set_num_threads(1)
    expected = everything()
    for level in cellpost.info()["cpu_levels"]:
        cellpost._core.set_cpu_level(level)
        for n in (1, 2, 7):
            cellpost.set_num_threads(n)
            assert everything() == expected


def test_every_kind_of_array(kind):
    maps = small_maps((70, 80), noise=0.1)
    expected = cellpost.hover_watershed(maps.prob, maps.hv)
    got = cellpost.hover_watershed(kind.put(maps.prob), kind.put(maps.hv))
    np.testing.assert_array_equal(kind.get(got), expected)
    mask = maps.labels > 0
    np.testing.assert_array_equal(kind.get(cellpost.label(kind.put(mask))), cellpost.label(mask))
    markers, energy, inside = cellpost.watershed_markers(maps.prob, maps.hv)
    expected = cellpost.watershed(energy, markers, mask=inside)
    for m in (inside, None):
        expected = cellpost.watershed(energy, markers, mask=m)
        got = cellpost.watershed(
            kind.put(energy), kind.put(markers), mask=None if m is None else kind.put(m)
        )
        np.testing.assert_array_equal(kind.get(got), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_layouts_and_dtypes_of_the_maps(dtype):
    maps = small_maps((64, 90), noise=0.1)
    prob, hv = maps.prob.astype(dtype), maps.hv.astype(dtype)
    expected = cellpost.hover_watershed(prob.astype(F), hv.astype(F))
    last = np.ascontiguousarray(np.moveaxis(hv, 0, -1))
    for p, m in (
        (prob, hv),
        (np.asfortranarray(prob), np.asfortranarray(hv)),
        (prob[::-1].copy()[::-1], hv[:, ::-1, ::-1].copy()[:, ::-1, ::-1]),
        (prob, np.moveaxis(last, -1, 0)),
    ):
        np.testing.assert_array_equal(cellpost.hover_watershed(p, m), expected)


# ---- bad input ----------------------------------------------------------------------------------

GOOD = (np.ones((20, 30), F), np.ones((2, 20, 30), F))


@pytest.mark.parametrize(
    ("prob", "hv", "options", "error", "message"),
    [
        (GOOD[0], np.ones((3, 20, 30), F), {}, ValueError, r"hv: expected shape \(2, H, W\)"),
        (GOOD[0], np.ones((20, 30), F), {}, ValueError, r"hv: expected shape \(2, H, W\)"),
        (GOOD[0], np.ones((20, 30, 2), F), {}, ValueError, r"hv: expected shape \(2, H, W\)"),
        (np.ones((20, 31), F), GOOD[1], {}, ValueError, r"prob: expected shape \(20, 30\)"),
        (np.ones((3, 20, 30), F), GOOD[1], {}, ValueError, "prob: expected shape"),
        (GOOD[0], GOOD[1], {"activation": "softmax"}, ValueError, r"prob: .*\(2, 20, 30\)"),
        (GOOD[1], GOOD[1], {"activation": "sigmoid"}, ValueError, r"prob: .*\(20, 30\)"),
        (GOOD[0], GOOD[1], {"activation": "relu"}, ValueError, "activation: expected"),
        (GOOD[0] > 0, GOOD[1], {}, TypeError, "prob: expected float16"),
        (GOOD[0], GOOD[1].astype(int), {}, TypeError, "hv: expected float16"),
        (GOOD[0], GOOD[1].astype(complex), {}, TypeError, "hv: expected float16"),
        (GOOD[0], [1.0], {}, TypeError, "hv: expected an array"),
        (GOOD[0], GOOD[1], {"style": "hover"}, ValueError, "style: expected one of 'hovernet'"),
        (GOOD[0], GOOD[1], {"threshold": np.nan}, ValueError, "threshold: expected"),
        (GOOD[0], GOOD[1], {"threshold": 1.5}, ValueError, "threshold: expected a probability"),
        (GOOD[0], GOOD[1], {"threshold": "high"}, TypeError, "threshold: expected a number"),
        (GOOD[0], GOOD[1], {"border_threshold": np.nan}, ValueError, "border_threshold"),
        (GOOD[0], GOOD[1], {"ksize": 4}, ValueError, "ksize: expected an odd number"),
        (GOOD[0], GOOD[1], {"ksize": 1}, ValueError, "ksize: expected an odd number"),
        (GOOD[0], GOOD[1], {"ksize": 33}, ValueError, "ksize: expected an odd number"),
        (GOOD[0], GOOD[1], {"ksize": 2.5}, TypeError, "ksize: expected an integer"),
        (GOOD[0], GOOD[1], {"radius": -1}, ValueError, "radius: expected 0 to 31"),
        (GOOD[0], GOOD[1], {"radius": 32}, ValueError, "radius: expected 0 to 31"),
        (GOOD[0], GOOD[1], {"footprint": "box"}, ValueError, "footprint: expected one of"),
        (GOOD[0], GOOD[1], {"connectivity": 3}, ValueError, "connectivity: expected 1 to 2"),
        (GOOD[0], GOOD[1], {"connectivity": 0}, ValueError, "connectivity: expected 1 to 2"),
        (GOOD[0], GOOD[1], {"style": "monai", "sigma": 0}, ValueError, "sigma: expected"),
        (GOOD[0], GOOD[1], {"sigma": -1}, ValueError, "sigma: expected"),
        (GOOD[0], GOOD[1], {"style": "monai", "sigma": 9}, ValueError, "sigma: expected"),
        (GOOD[0], GOOD[1], {"style": "monai", "sigma": np.nan}, ValueError, "sigma: expected"),
        (GOOD[0], GOOD[1], {"value_range": (1, 1)}, ValueError, "value_range: expected finite"),
        (GOOD[0], GOOD[1], {"value_range": (0, np.inf)}, ValueError, "value_range: expected"),
        (GOOD[0], GOOD[1], {"value_range": 3}, ValueError, "value_range: expected"),
        (GOOD[0], GOOD[1], {"value_range": (1, 2, 3)}, ValueError, "value_range: expected"),
        (GOOD[0], GOOD[1], {"gradient_range": ((0, 1), (2, 1))}, ValueError, "gradient_range"),
        (GOOD[0], GOOD[1], {"out_dtype": "float32"}, TypeError, "out_dtype: expected"),
    ],
)
def test_bad_arguments_of_hover_watershed_are_named(prob, hv, options, error, message):
    with pytest.raises(error, match=message):
        cellpost.hover_watershed(prob, hv, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        *(
            (
                lambda e, m, t=t: cellpost.watershed(e, (m - 1).astype(t)),
                ValueError,
                "markers: expected ids >= 0; got -1",
            )
            for t in ("int8", "int16", "int32", "int64")
        ),
        (lambda e, m: cellpost.watershed(e, e), TypeError, "markers: expected an integer dtype"),
        (lambda e, m: cellpost.watershed(e, m[1:]), ValueError, "energy: expected shape"),
        (lambda e, m: cellpost.watershed(e + 0j, m), TypeError, "energy: expected a real dtype"),
        (lambda e, m: cellpost.watershed(e > 0, m), TypeError, "energy: expected a real dtype"),
        (lambda e, m: cellpost.watershed(e[0], m[0]), ValueError, "markers: expected 2 axes"),
        (lambda e, m: cellpost.watershed(e, m, mask=m[1:]), ValueError, "mask: expected shape"),
        (lambda e, m: cellpost.watershed(e, m, mask=e), TypeError, "mask: expected a bool"),
        (lambda e, m: cellpost.watershed(e, m, connectivity=3), ValueError, "connectivity"),
        (lambda e, m: cellpost.label(e), TypeError, "mask: expected a bool or integer dtype"),
        (lambda e, m: cellpost.label(m[0]), ValueError, "mask: expected 2 axes"),
        (lambda e, m: cellpost.label(m, connectivity=0), ValueError, "connectivity"),
        (lambda e, m: cellpost.label(m, connectivity=1.5), TypeError, "connectivity"),
        (lambda e, m: cellpost.binary_opening(m[None]), ValueError, "mask: expected 2 axes"),
        (lambda e, m: cellpost.binary_opening(m, radius=40), ValueError, "radius: expected"),
        (lambda e, m: cellpost.binary_fill_holes(e), TypeError, "mask: expected a bool"),
    ],
)
def test_bad_arguments_of_the_pieces_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(np.zeros((8, 9)), np.zeros((8, 9), np.int32))
