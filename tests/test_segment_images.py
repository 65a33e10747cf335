"""Segmenting images of every layout, dtype, kind and normalisation; none is ever written to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import simulate
from scipy import ndimage
from test_segment import assert_same, flow_maps, hills, identity, same_objects

import cellpost
from cellpost import follow_flows, segment
from cellpost.normalize import Normalization, normalize, percentile_limits

torch = pytest.importorskip("torch")
F = np.float32
HOW = {"tile": 24, "batch_size": 3}
OPEN = {"min_size": 0, "flow_threshold": None}  # all that a made-up network finds


class Lazy:
    """An image of which parts are read: it knows how much, and is no array."""

    def __init__(self, array):
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.n_most = 0

    def __getitem__(self, key):
        part = self._array[key]
        self.n_most = max(self.n_most, part.size)
        return part

    @property
    def is_read_whole(self):
        return self.n_most >= math.prod(self.shape)


def gradients(tiles):
    """Flows out of differences between pixels, for 1 to 4 channels, in the tiles' library."""
    xp = torch if isinstance(tiles, torch.Tensor) else np
    grey = tiles.sum(1)
    dY, dX = xp.zeros_like(grey), xp.zeros_like(grey)
    dY[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    dX[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    return xp.stack([5 * xp.sign(dY), 5 * xp.sign(dX), grey - 0.05], 1)


@pytest.fixture(scope="module")
def maps():
    return flow_maps(simulate.blobs((70, 55), 25, seed=4), noise=0.5)


@pytest.fixture(scope="module")
def expected(maps):
    return follow_flows(maps[:2], maps[2])


# ---- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("said", [True, False])
def test_channels_on_any_axis(maps, expected, axis, said, is_lazy):
    image = np.moveaxis(maps, 0, axis)  # not contiguous, too
    if not said and axis in (1, -2):
        with pytest.raises(ValueError, match=r"channel_axis: expected to be told.*\(70, 3, 55\)"):
            segment(image, identity, **HOW)
        return
    given = Lazy(image) if is_lazy else image
    assert_same(segment(given, identity, channel_axis=axis if said else None, **HOW), expected)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_an_image_of_few_rows_has_to_say_where_its_channels_are(n):
    image = np.zeros((n, 30, 3), F)
    with pytest.raises(ValueError, match="channel_axis: expected to be told"):
        segment(image, gradients, **HOW)
    assert segment(image, gradients, channel_axis=0, **HOW).shape == (30, 3)
    assert segment(image, gradients, channel_axis=-1, **HOW).shape == (n, 30)


@pytest.mark.parametrize("n", [5, 9])
def test_an_image_of_many_channels_has_to_say_where_they_are(maps, expected, n):
    many = np.concatenate([maps, maps * 0, maps * 0])[:n]
    with pytest.raises(ValueError, match=rf"channel_axis: expected to be told.*\({n}, 70, 55\)"):
        segment(many, lambda tiles: tiles[:, :3], **HOW)
    got = segment(many, lambda tiles: tiles[:, :3], channel_axis=np.int64(0), **HOW)
    assert_same(got, expected)


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_a_grey_image_is_one_channel(axis):
    image = np.random.default_rng(0).random((40, 50)).astype(F)
    seen = set()

    def model(tiles):
        seen.add(tiles.shape[1])
        return gradients(tiles)

    given = image if axis is None else np.expand_dims(image, axis)
    got = segment(given, model, **HOW, **OPEN)
    assert seen == {1}
    assert_same(got, segment(Lazy(given), model, **HOW, **OPEN), 0)


def test_channels_keep_their_order():
    image = np.arange(3 * 30 * 40, dtype=F).reshape(3, 30, 40)

    def model(tiles):
        for tile in tiles:
            y, x = divmod(int(tile[0, 0, 0]), 40)
            np.testing.assert_array_equal(tile, image[:, y : y + 10, x : x + 10])
        return tiles * 0

    for given in (image, np.moveaxis(image, 0, -1), Lazy(image)):
        assert segment(given, model, tile=10).max() == 0


# ---- dtypes and memory --------------------------------------------------------------------------

DTYPES = ["uint8", "int16", "uint16", "int32", "uint32", "int64", "float16", "float32", "float64"]
KINDS = {
    "numpy": lambda a: a,
    "torch": lambda a: torch.from_numpy(a),
    "lazy": Lazy,
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "read only": lambda a: np.broadcast_to(a, a.shape),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", [None, "mediar", "vsm", "none"])
def test_dtypes_and_kinds(dtype, kind, norm):
    grey = hills(simulate.blobs((40, 50), 9, seed=4)).astype(dtype)
    image = grey.copy()
    dtypes = set()

    def destructive(tiles):
        dtypes.add(str(tiles.dtype).removeprefix("torch."))
        maps = gradients(tiles)
        tiles[...] = 0
        return maps

    got = segment(KINDS[kind](image), destructive, batch_size=1, tile=20, normalize=norm, **OPEN)
    assert image.tobytes() == grey.tobytes()
    assert dtypes == {"float32"}
    assert isinstance(got, torch.Tensor) == (kind == "torch")
    seen = grey.astype(F) if norm is None else normalize(grey, norm)
    whole = segment(seen, gradients, tile=20, **OPEN)
    assert_same(np.asarray(got), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", [None, "mediar", "vsm", "none"])
def test_bool_images(kind, norm):
    labels = simulate.blobs((40, 50), 9, seed=4)
    expected = ndimage.label(labels > 0)[0]

    def model(tiles):
        assert set(np.unique(tiles)) == {0, 255 if norm == "vsm" else 1}
        return np.stack([ndimage.label(tile)[0] for tile in np.asarray(tiles)[:, 0]])

    # Of ones alone the lower percentile is 1, too: then nothing is left.
    limits = (0, 1) if norm == "vsm" else None
    image = KINDS[kind](labels > 0)
    got = segment(image, model, head="labels", tile=(40, 50), normalize=norm, limits=limits)
    assert expected.max() > 2
    assert same_objects(got, expected)


@pytest.mark.parametrize("norm", [None, "mediar"])
@pytest.mark.parametrize("kind", ["numpy", "torch", "lazy"])
def test_an_image_of_one_tile_is_not_written_to(maps, kind, norm):
    image = maps.copy()

    def destructive(tiles):
        out = gradients(tiles)
        tiles[...] = -1
        return out

    segment(KINDS[kind](image), destructive, tile=(70, 55), batch_size=1, normalize=norm)
    assert image.tobytes() == maps.tobytes()


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", object, "U3"])
@pytest.mark.parametrize("wrap", [lambda a: a, Lazy])
def test_no_real_dtype(dtype, wrap):
    calls = []
    with pytest.raises(TypeError, match="image: expected a real dtype"):
        segment(wrap(np.zeros((20, 20), dtype)), calls.append, tile=8)
    assert not calls


@pytest.mark.parametrize("image", [None, 3, [[1.0, 2.0]], "image.tif", object()])
def test_no_image(image):
    with pytest.raises(TypeError, match="image: expected an array"):
        segment(image, gradients)


def test_a_masked_array_is_refused():
    with pytest.raises(TypeError, match="image: expected a plain array"):
        segment(np.ma.masked_equal(np.zeros((9, 9)), 0), gradients)


# ---- images that are read in parts --------------------------------------------------------------


def test_an_image_is_read_in_parts(maps, expected):
    image = Lazy(maps)
    assert_same(segment(image, identity, **HOW), expected)
    assert image.n_most == 3 * 24 * 24


@pytest.mark.parametrize("norm", ["mediar", "vsm", None, Normalization(None, scale=3.0)])
def test_limits_spare_reading_it_whole(norm):
    grey = np.random.default_rng(0).integers(0, 3000, (60, 70)).astype(np.uint16)
    limits = percentile_limits(grey)
    image = Lazy(grey)
    got = segment(image, gradients, normalize=norm, limits=limits, **HOW, **OPEN)
    assert not image.is_read_whole
    assert_same(got, segment(grey, gradients, normalize=norm, limits=limits, **HOW, **OPEN))


def test_without_limits_it_is_read_whole_to_measure_them():
    image = Lazy(np.random.default_rng(0).integers(0, 3000, (60, 70)).astype(np.uint16))
    segment(image, gradients, normalize="mediar", **HOW, **OPEN)
    assert image.is_read_whole


def test_what_goes_wrong_with_reading_is_passed_on():
    class Broken(Lazy):
        def __getitem__(self, key):
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        segment(Broken(np.zeros((50, 50))), gradients, **HOW)


# ---- normalisation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "norm",
    ["mediar", "vsm", Normalization((1, 99), per_channel=True, clip=False), Normalization()],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("channels", [None, 0, -1])
def test_tiles_are_normalised_as_the_whole_image_is(norm, dtype, channels):
    rng = np.random.default_rng(0)
    # A gradient of light: tiles of it would have limits of their own.
    light = rng.random((3, 60, 50)) + np.linspace(0.2, 5, 50)
    first = (hills(simulate.blobs((60, 50), 15, seed=4)) * light).astype(dtype)
    image = {None: first[0], 0: first, -1: np.moveaxis(first, 0, -1)}[channels]
    seen = normalize(first[0] if channels is None else first, norm)
    # One pixel decides over labels: so the bytes that the network gets are compared, too.
    whole = segment(seen, gradients, **HOW, **OPEN)
    got = []
    for given in (image, torch.from_numpy(np.ascontiguousarray(image)), Lazy(image)):
        bands = {}

        def model(tiles, bands=bands):
            bands[len(bands)] = np.asarray(tiles).tobytes()
            return gradients(tiles)

        found = segment(given, model, normalize=norm, **HOW, **OPEN)
        assert_same(np.asarray(found), whole)
        got.append(bands)
    assert got[0] == got[1] == got[2]


def test_a_volume_is_normalised_as_a_whole():
    volume = np.random.default_rng(0).integers(0, 200, (12, 20, 24)).astype(np.uint8)

    def model(tiles):
        z, y, x = (t.astype(F) for t in np.gradient(tiles[:, 0], axis=(1, 2, 3)))
        return np.stack([z, y, x, tiles[:, 0] - 0.5], 1)

    how = {"tile": (12, 20, 24), "normalize": "vsm"}
    whole = segment(normalize(volume, "vsm", spatial_ndim=3), model, tile=(12, 20, 24), **OPEN)
    assert_same(segment(volume, model, **how, **OPEN), whole)
    assert_same(segment(Lazy(volume), model, **how, **OPEN), whole)


def test_padding_is_0_after_the_normalisation():
    image = np.full((5, 5), 100, np.uint8)
    seen = []

    def model(tiles):
        seen.append(tiles.copy())
        return np.concatenate([tiles] * 3, 1)

    segment(image, model, tile=9, normalize="mediar", limits=(50, 150))
    assert seen[0][0, 0, 0, 0] == 0
    assert seen[0][0, 0, 4, 4] == 0.5


@pytest.mark.parametrize("shape", [(0, 0), (0, 30), (30, 0)])
@pytest.mark.parametrize("head", ["flows", "hover", "instances", "labels"])
@pytest.mark.parametrize(
    "how", [{}, {"tile": "train4ever"}, {"tile": "cell_size"}, {"scale": 2.0}], ids=str
)
@pytest.mark.parametrize("norm", [None, "mediar"])
def test_an_image_without_pixels(shape, head, how, norm):
    def model(tiles):
        raise AssertionError("there is nothing to see")

    for image in (np.zeros(shape, np.uint8), Lazy(np.zeros(shape, np.uint8))):
        got = segment(image, model, head=head, normalize=norm, **how)
        assert (got.shape, got.dtype) == (shape, np.int32)
    assert segment(torch.zeros(shape), model, head=head, **how).shape == shape


@pytest.mark.parametrize("tile", [1, 7, 512])
def test_an_image_of_one_pixel(tile):
    def model(tiles):
        return np.concatenate([tiles * 0, tiles * 0, tiles], 1)

    options = {"min_size": 0, "max_size_fraction": 1.0}
    got = segment(np.ones((1, 1)), model, tile=tile, **options)
    np.testing.assert_array_equal(
        got, follow_flows(np.zeros((2, 1, 1)), np.ones((1, 1)), **options)
    )
    one = segment(np.ones((1, 1)), lambda t: t[:, 0].astype(int), head="labels", tile=tile)
    np.testing.assert_array_equal(one, [[1]])
    assert cellpost.relabel(one).max() == 1


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("given", ["numpy", "torch", "lazy"])
def test_padding_is_what_numpy_makes_it(mode, given):
    image = np.arange(1, 31, dtype=np.uint16).reshape(5, 6)
    seen = []

    def model(tiles):
        seen.append(np.array(np.asarray(tiles)))
        return np.concatenate([seen[-1]] * 3, 1)

    segment(KINDS[given](image), model, tile=(10, 9), padding=mode)
    wanted = np.pad(image, ((2, 3), (1, 2)), mode=mode)
    np.testing.assert_array_equal(seen[0][0, 0], wanted)


def test_chosen_tiles_are_read_in_parts(monkeypatch):
    labels = np.kron(np.eye(12, dtype=np.uint8), np.pad(np.ones((20, 20), np.uint8), 15))
    image = Lazy(labels)
    monkeypatch.setattr(cellpost.tile_size, "_TILE_RANGE", (32, 128))

    def model(tiles):
        return np.stack([ndimage.label(tile)[0] for tile in tiles[:, 0]])

    got = segment(image, model, head="labels", tile="cell_size")
    assert got.max() == 12
    assert not image.is_read_whole
    image = Lazy(labels)
    monkeypatch.setattr(cellpost.tile_size, "_LARGE_EDGE", 100)
    monkeypatch.setattr(cellpost.tile_size, "_BY_EDGE", ((1000, 128),))
    assert segment(image, model, head="labels", tile="train4ever").max() == 12
    assert image.n_most == 128 * 128


@pytest.mark.parametrize("wanted", [np.uint8, "int64", torch.int16, torch.uint8])
@pytest.mark.parametrize("given", ["numpy", "torch", "lazy"])
@pytest.mark.parametrize("answers_in", ["numpy", "torch"])
def test_dtype_and_library_of_the_labels(maps, expected, wanted, given, answers_in):
    def model(tiles):
        values = np.asarray(tiles)
        return torch.from_numpy(values) if answers_in == "torch" else values

    got = segment(KINDS[given](maps), model, out_dtype=wanted, **HOW)
    name = getattr(wanted, "__name__", str(wanted)).removeprefix("torch.")
    assert str(got.dtype).removeprefix("torch.") == name
    assert isinstance(got, torch.Tensor) == (given == "torch")
    np.testing.assert_array_equal(np.asarray(got), expected)
