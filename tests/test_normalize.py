"""Normalisation against NumPy's percentiles and scikit-image's rescaling; parts and the whole."""

from __future__ import annotations

import importlib

import array_kinds
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellpost.normalize import Normalization, normalization, normalize, percentile_limits

# Not an attribute of the package, where the function of this name may stand.
module = importlib.import_module("cellpost.normalize")

REAL = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
FLOATS = ("float16", "float32", "float64")


@pytest.fixture(
    params=[
        pytest.param(k, id=k.name, marks=[pytest.mark.gpu] if k.on_cuda else [])
        for k in array_kinds.ALL
        if k.name != "jax"
    ]
)
def library(request):
    if (why_not := request.param.why_not()) is not None:
        pytest.skip(why_not)
    return request.param


def some_image(dtype="uint16", shape=(3, 41, 53), seed=0):
    """Skewed intensities with zeros and a few bright pixels, other in each channel."""
    rng = np.random.default_rng(seed)
    image = rng.gamma(2, 20, shape) * np.arange(1, shape[0] + 1).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    image[..., : shape[-1] // 4] = 0
    image[..., 0, 0] = 120
    if dtype == "bool":
        return image > 30
    top = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 3e4
    image = np.minimum(image * (100 if top > 1e4 else 1), top)
    return (image - (50 if np.dtype(dtype).kind in "if" else 0)).astype(dtype)


def by_numpy(image, lower, upper, nonzero=False):
    values = image.astype(np.float64).ravel()
    values = values[values != 0] if nonzero else values
    return np.percentile(values, [lower, upper]) if values.size else np.zeros(2)


# ---- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", REAL + FLOATS)
@pytest.mark.parametrize("nonzero", [False, True])
def test_limits_are_numpys(library, dtype, nonzero):
    image = some_image(dtype)
    put = library.put(image)
    for lower, upper in ((0, 99.5), (1, 99), (12.34, 50), (0, 100)):
        got = percentile_limits(put, lower, upper, nonzero=nonzero)
        assert isinstance(got, np.ndarray)
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, by_numpy(image, lower, upper, nonzero))
        got = percentile_limits(put, lower, upper, nonzero=nonzero, per_channel=True)
        np.testing.assert_array_equal(got, [by_numpy(c, lower, upper, nonzero) for c in image])


@given(
    image=st.one_of(
        hnp.arrays(d, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))
        for d in (np.uint8, np.uint16, np.int32)
    ),
    lower=st.floats(0, 99.9),
    width=st.floats(0.01, 100),
    nonzero=st.booleans(),
)
def test_limits_of_any_image_are_numpys(image, lower, width, nonzero):
    upper = min(lower + width, 100)
    got = percentile_limits(image, lower, upper, nonzero=nonzero)
    np.testing.assert_array_equal(got, by_numpy(image, lower, upper, nonzero))


def test_counting_in_blocks(monkeypatch):
    image = some_image("uint16")
    monkeypatch.setattr(module, "_BLOCK", 100)
    np.testing.assert_array_equal(percentile_limits(image, 1, 99), by_numpy(image, 1, 99))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("nonzero", [False, True])
def test_what_cuda_does_is_numpys_on_the_cpu_too(dtype, nonzero):
    torch = pytest.importorskip("torch")
    image = some_image(dtype)
    got = module._percentiles_of(torch.from_numpy(image), (1, 99), nonzero)
    np.testing.assert_array_equal(got, by_numpy(image, 1, 99, nonzero))
    assert module._percentiles_of(torch.from_numpy(image[:0]), (1, 99), nonzero) == (0, 0)


def test_limits_of_arrays_in_any_layout(library):
    image = some_image("float32")
    turned = np.ascontiguousarray(image.transpose(0, 2, 1))
    got = percentile_limits(library.put(turned.transpose(0, 2, 1)), 1, 99)
    np.testing.assert_array_equal(got, by_numpy(image, 1, 99))
    np.testing.assert_array_equal(
        percentile_limits(image[:, ::-2, ::-1]), percentile_limits(image[:, ::-2, ::-1].copy())
    )


def test_bfloat16():
    torch = pytest.importorskip("torch")
    image = torch.from_numpy(some_image("float32")).to(torch.bfloat16)
    exact = image.float().numpy()
    np.testing.assert_array_equal(percentile_limits(image, 1, 99), by_numpy(exact, 1, 99))
    got = normalize(image)
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), normalize(exact))


def test_a_sample_is_a_grid_of_the_image():
    image = some_image("float32", (2, 60, 90))
    got = percentile_limits(image, 1, 99, per_channel=True, max_pixels=600)
    np.testing.assert_array_equal(got, [by_numpy(c[::3, ::3], 1, 99) for c in image])
    np.testing.assert_array_equal(
        percentile_limits(image, max_pixels=5400), percentile_limits(image)
    )
    assert percentile_limits(image[0], max_pixels=1).tolist() == [image[0, 0, 0]] * 2
    np.testing.assert_array_equal(
        normalization("vsm").limits(image, max_pixels=600),
        percentile_limits(image, 1, 99, nonzero=True, per_channel=True, max_pixels=600),
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bool"])
def test_limits_of_nothing_are_zero(library, dtype):
    nothing = library.put(np.zeros((2, 0, 5), dtype))
    assert percentile_limits(nothing).tolist() == [0, 0]
    assert percentile_limits(nothing, per_channel=True).tolist() == [[0, 0], [0, 0]]
    black = library.put(np.zeros((2, 3, 5), dtype))
    assert percentile_limits(black, nonzero=True, per_channel=True).tolist() == [[0, 0], [0, 0]]


def test_an_image_without_channels_has_one_pair():
    image = some_image("uint8")[0]
    assert percentile_limits(image, per_channel=True).shape == (2,)
    assert percentile_limits(image[:1, :1]).tolist() == [image[0, 0]] * 2
    volume = some_image("uint8")
    assert percentile_limits(volume, per_channel=True, spatial_ndim=3).shape == (2,)
    assert percentile_limits(volume[None], per_channel=True, spatial_ndim=3).shape == (1, 2)
    np.testing.assert_array_equal(
        percentile_limits(volume, spatial_ndim=3, max_pixels=1200),
        by_numpy(volume[::2, ::2, ::2], 0, 99.5),
    )


# ---- methods ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", REAL + FLOATS)
def test_mediar(library, dtype):
    image = some_image(dtype)
    got = normalize(library.put(image))
    low, high = by_numpy(image, 0, 99.5)
    expected = (np.clip(image.astype(np.float64), low, high) - low) / (high - low)
    assert library.owns(got)
    got = library.get(got)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-7)  # two roundings of float32 in 0..1
    assert got.min() == 0
    assert got.max() == 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_vsm_is_scikit_images(library, dtype):
    exposure = pytest.importorskip("skimage.exposure")
    image = some_image(dtype)
    got = library.get(normalize(library.put(image), "vsm"))
    for mine, channel in zip(got, image, strict=True):
        limits = by_numpy(channel, 1, 99, nonzero=True)
        expected = exposure.rescale_intensity(
            channel.astype(np.float64), in_range=tuple(limits), out_range=(0, 255)
        )
        np.testing.assert_allclose(mine, expected, rtol=0, atol=5e-5)  # 255 times that of 0..1
        assert mine.max() == 255


def test_without_clipping_it_is_cellposes_and_none_is_the_image(library):
    image = some_image("float32")
    norm = Normalization((30, 99), per_channel=True, clip=False)
    got = library.get(normalize(library.put(image), norm))
    limits = np.stack([by_numpy(c, 30, 99) for c in image])[..., None, None]
    expected = (image - limits[:, 0]) / (limits[:, 1] - limits[:, 0])
    np.testing.assert_allclose(got, expected, rtol=3e-7, atol=3e-7)
    assert got.min() < 0
    assert got.max() > 1
    same = normalize(library.put(image), "none")
    np.testing.assert_array_equal(library.get(same), image)
    counted = normalize(library.put(image.astype(np.int32)), "none", limits=(0, 255))
    np.testing.assert_allclose(library.get(counted), image.astype(np.int32) / 255, rtol=2e-7)


def test_wide_dtypes_are_worked_on_in_float64():
    for image in (
        np.array([[2**40, 2**40 + 1, 2**40 + 2]]),
        np.array([[1e12, 1e12 + 1, 1e12 + 2]]),
    ):
        assert normalize(image, Normalization((0, 100))).tolist() == [[0, 0.5, 1]]


@pytest.mark.parametrize("method", ["mediar", "vsm"])
def test_constant_images_become_zero(library, method):
    image = some_image("uint8")
    image[1] = 7
    for constant in (image[1], np.zeros((4, 5)), np.full((2, 3, 4), -2.5, np.float32)):
        assert not library.get(normalize(library.put(constant), method)).any()
    got = library.get(normalize(library.put(image), "vsm"))
    assert not got[1].any()
    assert got[0].any()


@pytest.mark.parametrize("method", ["mediar", "vsm", "none"])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (0, 4, 5)])
def test_empty_images_stay_empty(library, method, shape):
    got = normalize(library.put(np.zeros(shape, np.uint8)), method)
    assert tuple(got.shape) == shape
    assert library.get(got).dtype == np.float32


@pytest.mark.parametrize("method", ["mediar", "vsm", "none"])
@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_tiles_are_those_of_the_whole_image(library, method, dtype):
    image = some_image(dtype)
    norm = normalization(method)
    limits = norm.limits(library.put(image))
    tiles = np.stack([image[:, y : y + 16, x : x + 20] for y in (0, 7, 25) for x in (0, 33)])
    before = tiles.copy()
    put = library.put(tiles)
    got = norm.apply(put, limits)
    assert library.owns(got)
    np.testing.assert_array_equal(library.get(put) if library.name != "dlpack" else tiles, before)
    got, whole = library.get(got), library.get(normalize(library.put(image), method))
    expected = [whole[:, y : y + 16, x : x + 20] for y in (0, 7, 25) for x in (0, 33)]
    np.testing.assert_array_equal(got, expected)
    assert not np.shares_memory(got, tiles)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["mediar", "vsm"])
def test_cuda_gives_the_bytes_of_the_cpu(device, method):
    for dtype in ("uint8", "uint16", "float32", "float64"):
        image = some_image(dtype)
        got = device.get(normalize(device.put(image), method))
        np.testing.assert_array_equal(got, normalize(image, method))


def test_volumes():
    image = some_image("float32", (2, 7, 11, 13))
    got = normalize(image, "vsm", spatial_ndim=3)
    for mine, channel in zip(got, image, strict=True):
        np.testing.assert_array_equal(mine, normalize(channel, "vsm", spatial_ndim=3))
    limits = normalization("vsm").limits(image, spatial_ndim=3)
    batch = normalization("vsm").apply(image[None, :, :3], limits, spatial_ndim=3)
    np.testing.assert_array_equal(batch, got[None, :, :3])


def test_limits_of_any_array_kind(library):
    limits = (
        library.put(np.array([[0, 10], [0, 20.0]]))
        if library.name != "dlpack"
        else [[0, 10], [0, 20]]
    )
    image = np.full((2, 3, 3), 5, np.uint8)
    got = normalize(image, limits=limits)
    np.testing.assert_array_equal(got[:, 0, 0], np.array([0.5, 0.25], np.float32))


def test_nan_passes_given_limits():
    got = normalize(np.array([[np.nan, 1, np.inf]]), limits=(0, 2))
    np.testing.assert_array_equal(got, [[np.nan, 0.5, 1]])


# ---- rejected -----------------------------------------------------------------------------------


def test_nan_and_infinite_pixels_are_counted(library):
    image = np.zeros((2, 3, 4), np.float32)
    image[0, 0, :2] = np.nan
    image[1, 2, 3] = np.inf
    with pytest.raises(
        ValueError, match=r"image: expected finite values; got 2 NaN and 1 infinite of 24"
    ):
        percentile_limits(library.put(image))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lower": -1}, ValueError, r"lower, upper: expected 0 <= lower < upper <= 100"),
        ({"upper": 101}, ValueError, r"lower, upper: .*; got \(0.0, 101.0\)"),
        ({"lower": 50, "upper": 50}, ValueError, "lower, upper"),
        ({"lower": float("nan")}, ValueError, "lower, upper"),
        ({"lower": "low"}, TypeError, "lower: expected a number"),
        ({"max_pixels": 0}, ValueError, "max_pixels: expected 1 or more; got 0"),
        ({"max_pixels": 0.5}, TypeError, "max_pixels: expected an integer"),
        ({"spatial_ndim": 1}, ValueError, "spatial_ndim: expected 2 or 3; got 1"),
        ({"spatial_ndim": 3}, ValueError, r"image: expected 3 axes, or 4 .* got shape \(3, 4\)"),
    ],
)
def test_options_of_limits_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        percentile_limits(np.zeros((3, 4)), **options)


def test_images_are_checked():
    with pytest.raises(TypeError, match=r"image: expected an array .* got list"):
        percentile_limits([[1, 2]])
    with pytest.raises(
        TypeError, match=r"image: expected a bool, integer or floating .* complex64"
    ):
        percentile_limits(np.zeros((2, 2), np.complex64))
    with pytest.raises(
        TypeError, match=r"image: expected a bool, integer or floating .* complex64"
    ):
        normalization("none").apply(np.zeros((2, 2), np.complex64), (0, 1))
    for shape in ((4,), (1, 2, 3, 4)):
        with pytest.raises(
            ValueError, match="image: expected 2 axes, or 3 with the channels first"
        ):
            normalize(np.zeros(shape))


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ((1, 2, 3), ValueError, r"limits: expected shape \(2,\) or \(3, 2\) .*; got \(3,\)"),
        (np.zeros((4, 2)), ValueError, r"limits: expected .*; got \(4, 2\)"),
        ((2, 1), ValueError, r"limits: expected finite numbers, lower <= upper; got \[2.0, 1.0\]"),
        ((0, np.inf), ValueError, "limits: expected finite numbers"),
        (("a", "b"), TypeError, "limits: expected numbers"),
        ({"low": 1}, TypeError, "limits: expected numbers"),
    ],
)
def test_limits_are_checked(limits, error, message):
    with pytest.raises(error, match=message):
        normalize(np.zeros((3, 4, 5)), limits=limits)


def test_limits_of_channels_need_channels():
    with pytest.raises(ValueError, match=r"limits: expected shape \(2,\) for an image of shape"):
        normalize(np.zeros((4, 5)), limits=[[0, 1], [0, 2]])


def test_methods_are_checked():
    with pytest.raises(
        ValueError,
        match="method: expected a Normalization or one of 'mediar', 'vsm', 'none'; got 'max'",
    ):
        normalize(np.zeros((2, 2)), "max")
    with pytest.raises(ValueError, match=r"method: .* got 3"):
        normalization(3)
    with pytest.raises(ValueError, match=r"percentiles: expected \(lower, upper\) or None; got 5"):
        Normalization(5)
    with pytest.raises(ValueError, match=r"percentiles\[0\], percentiles\[1\]: expected 0 <="):
        Normalization((99, 1))
    for scale in (0, -1, np.inf, np.nan):
        with pytest.raises(ValueError, match="scale: expected a finite number > 0"):
            Normalization(scale=scale)
