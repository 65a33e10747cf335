"""The pathology transforms against MONAI's own, one by one and in `Compose`."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings

import numpy as np
import peers
import pytest
import simulate

torch = pytest.importorskip("torch")
pytest.importorskip("monai")
pytest.importorskip("skimage", minversion="0.26")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import monai.apps.pathology.transforms.post.dictionary as theirs_of_items
    from monai.data import MetaTensor
    from monai.transforms import Compose, FillHoles, GaussianSmooth

    from cellpost.integrations import monai_transforms as ours

    theirs = peers.monai_post()

pytestmark = pytest.mark.filterwarnings("ignore")
F = np.float32

CONTAINERS = {
    "numpy": lambda array: array,
    "torch": torch.from_numpy,
    "meta": lambda array: MetaTensor(torch.from_numpy(array), meta={"filename_or_obj": "a.png"}),
}


@pytest.fixture(params=list(CONTAINERS))
def put(request):
    return CONTAINERS[request.param]


def maps_of(labels, noise=0.1, seed=2):
    """(logits (2, H, W), HoVer map) of a simulated network."""
    maps = simulate.hover_from_labels(labels, noise=noise, seed=seed)
    prob = np.clip(maps.prob, 1e-6, 1 - 1e-6)
    return np.log(np.stack([1 - prob, prob])).astype(F), maps.hv


def monais(options):
    """The options that make MONAI do the same: scikit-image 0.26 lets it remove objects of exactly
    that size, too."""
    size = options.get("min_object_size", 0)
    return {**options, "min_object_size": size - 1} if size > 1 else options


def small_maps(seed=0, noise=0.1):
    return maps_of(simulate.blobs((70, 90), 16, seed=seed, radius=(5, 9)), noise)


def type_logits(shape, n_types=5, seed=0):
    return np.random.default_rng(seed).standard_normal((n_types, *shape)).astype(F)


def assert_same(got, wanted, what=""):
    assert type(got) is type(wanted), what
    assert got.dtype == wanted.dtype, what
    np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted), err_msg=what)
    if isinstance(wanted, MetaTensor):
        assert got.meta["filename_or_obj"] == wanted.meta["filename_or_obj"] == "a.png"
        assert torch.equal(got.affine, wanted.affine)


def assert_same_info(got, wanted):
    assert list(got) == sorted(wanted)
    for id_, about in got.items():
        assert type(id_) is np.int64
        assert list(about) == list(wanted[id_])
        for name, value in about.items():
            if name == "type_prob":  # MONAI's is of float32
                np.testing.assert_allclose(value, wanted[id_][name], rtol=2**-23)
            elif name == "type":
                assert (value, type(value)) == (wanted[id_][name], int)
            else:
                assert_same(value, wanted[id_][name], name)


# ---- names --------------------------------------------------------------------------------------


def test_all_names_and_arguments_are_monais():
    assert sorted(ours.__all__) == sorted([*theirs.__all__, *theirs_of_items.__all__])
    for name in ours.__all__:
        module = theirs if name in theirs.__all__ else theirs_of_items
        own, peer = getattr(ours, name), getattr(module, name)
        assert issubclass(own, peer)
        assert str(inspect.signature(own)) == str(inspect.signature(peer))
        arguments = list(inspect.signature(own.__call__).parameters)
        assert arguments == list(inspect.signature(peer.__call__).parameters)
        if own is not peer:
            assert own.__module__.startswith("cellpost.")
            assert own.__doc__ != peer.__doc__


# ---- steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_steps_on_real_nuclei_are_monais(seed, nuclei2d, put):
    logits, hv = map(put, maps_of(nuclei2d, 0.1 * seed, seed))
    mask = theirs.GenerateWatershedMask()(logits)
    assert_same(ours.GenerateWatershedMask()(logits), mask)
    border = theirs.GenerateInstanceBorder()(mask, hv)
    assert_same(ours.GenerateInstanceBorder()(mask, hv), border)
    energy = ours.GenerateDistanceMap()(mask, border)
    markers = theirs.GenerateWatershedMarkers()(mask, border)
    assert_same(ours.GenerateWatershedMarkers()(mask, border), markers)
    assert markers.max() > 100
    wanted = theirs.Watershed()(energy, mask, markers)
    assert_same(ours.Watershed()(energy, mask, markers), wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"min_object_size": 0},
        {"min_object_size": 200},
        {"threshold": 1.0},
        {"threshold": 0.0},
        {"activation": "sigmoid"},
        {"activation": "sigmoid", "threshold": 0.8, "dtype": np.float32},
        {"activation": lambda x: torch.sigmoid(x) ** 2, "dtype": torch.int64},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_options_of_the_mask(options, channels, put):
    logits, _ = small_maps()
    more = np.concatenate([logits[1:], logits[:1], logits[1:] * 0.3])[:channels]
    got = ours.GenerateWatershedMask(**options)(put(more))
    assert_same(got, theirs.GenerateWatershedMask(**monais(options))(put(more)))


def test_mask_of_a_volume(put):
    logits = np.random.default_rng(0).standard_normal((2, 9, 10, 11)).astype(F)
    for options in ({}, {"activation": "sigmoid"}, {"min_object_size": 3}):
        got = ours.GenerateWatershedMask(**options)(put(logits))
        assert_same(got, theirs.GenerateWatershedMask(**monais(options))(put(logits)))


@pytest.mark.parametrize("kernel_size", [3, 7, 21, 31, 33])
@pytest.mark.parametrize("flat", [False, True])
def test_options_of_the_border(kernel_size, flat, put):
    logits, hv = small_maps()
    mask = theirs.GenerateWatershedMask()(put(logits))
    for maps, dtype in ((hv, np.float64), (hv.astype(np.float64), np.float32)):
        given = (mask[0] if flat else mask, put(maps))
        got = ours.GenerateInstanceBorder(kernel_size, dtype)(*given)
        wanted = theirs.GenerateInstanceBorder(kernel_size, dtype)(*given)
        # Sums of 2 * kernel_size float32 terms, which PyTorch adds in various orders, over the
        # range of the sums: some units of the last place of 1.
        np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=0, atol=8 * 2**-24)
        assert (type(got), got.dtype) == (type(wanted), wanted.dtype)


@pytest.mark.parametrize(
    ("mask", "hv"),
    [((1, 9, 9), (2, 9, 9)), ((2, 9, 9), (2, 9, 9)), ((9,), (2, 9, 9)), ((9, 9), (3, 9, 9))],
    ids=str,
)
def test_what_monai_refuses_is_refused(mask, hv):
    given = np.ones(mask, np.uint8), np.ones(hv, F)  # the first: a map without extent
    for module in (theirs, ours):
        with pytest.raises(ValueError, match=r"valid|mask|hover map"):
            module.GenerateInstanceBorder()(*given)
    border = np.zeros((1, 9, 9), F)
    if len(mask) == 1 or mask[0] == 2:
        for module in (theirs, ours):
            with pytest.raises(ValueError, match="mask"):
                module.GenerateWatershedMarkers()(given[0], border)


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.7, "radius": 1},
        {"threshold": 0.0},  # of the background, too: in uint8 it wraps to foreground
        {"radius": 0, "min_object_size": 0, "dtype": np.float32},
        {"radius": 4, "min_object_size": 60, "dtype": torch.int32},
        {"postprocess_fn": FillHoles(connectivity=1)},
        {"postprocess_fn": lambda marker: marker},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_options_of_the_markers(options, dtype, put):
    logits, hv = small_maps(noise=0.3)
    mask = theirs.GenerateWatershedMask(dtype=dtype)(put(logits))
    border = theirs.GenerateInstanceBorder()(mask, put(hv))
    got = ours.GenerateWatershedMarkers(**options)(mask, border)
    wanted = theirs.GenerateWatershedMarkers(**monais(options))(mask, border)
    assert_same(got, wanted)
    assert_same(ours.GenerateWatershedMarkers(**options)(mask[0], border), wanted)


def test_markers_of_a_ring_whose_hole_opens_over_a_corner():
    mask = np.ones((1, 11, 11), np.uint8)
    border = np.zeros((1, 11, 11), F)
    border[0, 3:6, 3:6] = 1
    for hole in ((6, 6), (2, 5)):  # beside the hole, over a corner and over an edge
        border[0][hole] = 1
        options = {"radius": 0, "min_object_size": 0}
        got = ours.GenerateWatershedMarkers(**options)(mask, border)
        assert_same(got, theirs.GenerateWatershedMarkers(**monais(options))(mask, border))


@pytest.mark.parametrize("connectivity", [1, 2, 3, None, np.ones((3, 3, 3))], ids=str)
@pytest.mark.parametrize("with_mask", [False, True])
def test_options_of_the_watershed(connectivity, with_mask, put):
    rng = np.random.default_rng(3)
    energy = rng.permutation(50 * 60).reshape(1, 50, 60).astype(F)  # no ties
    markers = np.where(rng.random(energy.shape) < 0.01, rng.integers(1, 99, energy.shape), 0)
    mask = (rng.random(energy.shape) < 0.8).astype(np.uint8) if with_mask else None
    for ids in (markers, markers.astype(np.int32)):
        given = (put(energy), None if mask is None else put(mask), put(ids))
        got = ours.Watershed(connectivity, np.int32)(*given)
        assert_same(got, theirs.Watershed(connectivity, np.int32)(*given))


def test_watershed_without_markers_and_of_volumes(put):
    rng = np.random.default_rng(4)
    volume = rng.permutation(9 * 10 * 11).reshape(1, 9, 10, 11).astype(F)
    markers = np.where(rng.random(volume.shape) < 0.02, rng.integers(1, 9, volume.shape), 0)
    for ids in (None, markers):
        given = (put(volume), None, None if ids is None else put(ids))
        assert_same(ours.Watershed()(*given), theirs.Watershed()(*given))
    two = np.concatenate([volume, volume])
    ids = np.concatenate([markers, markers])
    assert_same(ours.Watershed()(two, None, ids), theirs.Watershed()(two, None, ids))


def test_ids_that_do_not_fit_raise():
    markers = np.zeros((1, 40, 40), int)
    markers[0, ::2, ::2] = np.arange(1, 401).reshape(20, 20)
    with pytest.raises(OverflowError, match="dtype: expected a dtype that holds ids up to 400"):
        ours.Watershed(dtype=np.uint8)(markers.astype(F), None, markers)
    mask, border = np.ones((1, 40, 40), np.uint8), np.ones((1, 40, 40), F)
    border[0, ::2, ::2] = 0
    transform = ours.GenerateWatershedMarkersd(radius=0, min_object_size=0)
    with pytest.raises(OverflowError, match="holds ids up to 400; got uint8"):
        transform({"mask": mask, "border": border})


# ---- the whole ----------------------------------------------------------------------------------


def test_instances_and_types_of_real_nuclei_are_monais(nuclei2d, put):
    logits, hv = map(put, maps_of(nuclei2d, noise=0.2))
    of_types = put(type_logits(nuclei2d.shape))
    info, labels = ours.HoVerNetInstanceMapPostProcessing()(logits, hv)
    wanted_info, wanted = theirs.HoVerNetInstanceMapPostProcessing()(logits, hv)
    assert_same(labels, wanted)
    assert_same_info(info, wanted_info)
    assert len(info) > 100
    got = ours.HoVerNetNuclearTypePostProcessing()(of_types, info, labels)
    wanted = theirs.HoVerNetNuclearTypePostProcessing()(of_types, wanted_info, wanted)
    assert_same_info(got[0], wanted[0])
    assert_same(got[1], wanted[1])


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "sigmoid"},
        {"activation": "sigmoid", "mask_threshold": 0.8, "min_object_size": 0},
        {"min_object_size": 120, "sobel_kernel_size": 7, "marker_threshold": 0.6},
        {"distance_smooth_fn": GaussianSmooth(2.0), "marker_radius": 1, "min_num_points": 12},
        {"distance_smooth_fn": GaussianSmooth([1.0, 2.0])},
        {"distance_smooth_fn": GaussianSmooth(1.0, approx="sampled"), "contour_level": 0.3},
        {"distance_smooth_fn": lambda x: x},
        {"marker_postprocess_fn": FillHoles(connectivity=1)},
        {"watershed_connectivity": 2, "sobel_kernel_size": 33},
        {"watershed_connectivity": 3, "device": "cpu"},
    ],
    ids=str,
)
def test_options_of_the_instances(options, put):
    logits, hv = small_maps(noise=0.15)
    logit = logits[1:] - logits[:1]
    given = put(logit if "activation" in options else logits), put(hv)
    info, labels = ours.HoVerNetInstanceMapPostProcessing(**options)(*given)
    wanted_info, wanted = theirs.HoVerNetInstanceMapPostProcessing(**monais(options))(*given)
    assert_same(labels, wanted)
    assert_same_info(info, wanted_info)
    assert len(info) > 2


def test_ids_have_monais_gaps():
    labels = np.zeros((64, 64), int)
    labels[:20, :20], labels[24:44, 24:44], labels[44:, 24:44], labels[24:44, 44:] = 1, 2, 3, 4
    _, hv = maps_of(labels, noise=0.01)
    labels[:20, :20] = np.add.outer(np.arange(20), np.arange(20)) < 3  # what the opening leaves
    labels[0, :9] = 1
    logits = np.where(labels > 0, F(5), F(-5))[None] * np.array([-1, 1], F)[:, None, None]
    info, got = ours.HoVerNetInstanceMapPostProcessing()(logits, hv)
    wanted_info, wanted = theirs.HoVerNetInstanceMapPostProcessing()(logits, hv)
    assert_same(got, wanted)
    assert_same_info(info, wanted_info)
    assert list(info) == [2, 3, 4]


def test_maps_without_noise_have_no_harmful_ties(nuclei2d):
    logits, hv = maps_of(nuclei2d, noise=0)
    _, got = ours.HoVerNetInstanceMapPostProcessing()(logits, hv)
    mask = theirs.GenerateWatershedMask()(logits)
    border = theirs.GenerateInstanceBorder()(mask, hv)
    energy = theirs.GenerateDistanceMap()(mask, border)
    wanted = theirs.Watershed()(energy, mask, theirs.GenerateWatershedMarkers()(mask, border))
    np.testing.assert_array_equal(got, wanted)
    assert got.max() > 100


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 1},
        {"threshold": 3},
        {"activation": "sigmoid"},
        {"activation": "sigmoid", "threshold": 0.7, "return_type_map": False},
        {"activation": lambda x: x, "threshold": 0.2},
        {"device": "cpu"},
    ],
    ids=str,
)
def test_options_of_the_types(options, put):
    info, labels = theirs.HoVerNetInstanceMapPostProcessing()(*small_maps())
    given = put(type_logits((70, 90)))
    del info[2]  # an id of the map that is not described has no type
    own, peer = copy.deepcopy(info), copy.deepcopy(info)
    got = ours.HoVerNetNuclearTypePostProcessing(**options)(given, own, labels)
    wanted = theirs.HoVerNetNuclearTypePostProcessing(**options)(given, peer, labels)
    assert got[0] is own  # written to, as MONAI does
    assert_same_info(got[0], wanted[0])
    if wanted[1] is None:
        assert got[1] is None
    else:
        assert_same(got[1], wanted[1])
        assert 2 not in np.unique(np.asarray(labels)[np.asarray(got[1]) > 0])


def test_an_id_that_is_not_in_the_map_raises():
    with pytest.raises(KeyError):
        ours.HoVerNetNuclearTypePostProcessing()(
            type_logits((4, 4)), {3: {}}, np.ones((1, 4, 4), int)
        )


def test_an_empty_tile_is_empty():
    logits = np.stack([np.ones((30, 40)), np.zeros((30, 40))]).astype(F)
    for hv in (np.zeros((2, 30, 40), F), np.random.default_rng(0).random((2, 30, 40)).astype(F)):
        info, labels = ours.HoVerNetInstanceMapPostProcessing()(logits, hv)
        assert info == {}
        assert tuple(labels.shape) == (1, 30, 40)
        assert not labels.any()
        info, types = ours.HoVerNetNuclearTypePostProcessing()(type_logits((30, 40)), info, labels)
        assert info == {}
        assert not types.any()


def test_a_nan_in_the_map_counts_as_zero():
    logits, hv = small_maps()
    hv[:, 5, 6], zero = np.nan, hv.copy()
    zero[:, 5, 6] = 0
    got = ours.HoVerNetInstanceMapPostProcessing()(logits, hv)[1]
    assert_same(got, ours.HoVerNetInstanceMapPostProcessing()(logits, zero)[1])
    assert got.max() > 3


# ---- dictionary versions ------------------------------------------------------------------------


def chains(of_items):
    """The steps one by one, and as a whole, of a module of dictionary versions."""
    wide = {"dtype": np.int32}
    steps = [
        of_items.GenerateWatershedMaskd(keys="np"),
        of_items.GenerateInstanceBorderd(hover_map_key="hv", kernel_size=5),
        of_items.GenerateDistanceMapd(),
        of_items.GenerateWatershedMarkersD(**wide),
        of_items.WatershedDict(keys="dist_map", markers_key="markers", **wide),
    ]
    whole = [
        of_items.HoVerNetInstanceMapPostProcessingd("np", "hv"),
        of_items.HoVerNetNuclearTypePostProcessingDict("nc"),
    ]
    return Compose(steps), Compose(whole)


def test_dictionary_versions_in_compose_are_monais(nuclei2d, put):
    labels = nuclei2d[:300, :300]  # on smaller images PyTorch's convolution rounds otherwise
    logits, hv = maps_of(labels)
    data = {"np": put(logits), "hv": put(hv), "nc": put(type_logits(labels.shape))}
    for own, peer in zip(chains(ours), chains(theirs_of_items), strict=True):
        own = pickle.loads(pickle.dumps(own))  # as a DataLoader's workers get them
        got, wanted = own(dict(data)), peer(dict(data))
        assert list(got) == list(wanted)
        for key, value in wanted.items():
            if key == "instance_info":
                assert_same_info(got[key], value)
            else:
                assert_same(got[key], value, key)


def test_dictionary_versions_hold_our_transforms():
    inner = {
        "Watershedd": ("transform", ("dist",)),
        "GenerateWatershedMaskd": ("transform", ("np",)),
        "GenerateInstanceBorderd": ("transform", ()),
        "GenerateWatershedMarkersd": ("transform", ()),
        "HoVerNetInstanceMapPostProcessingd": ("instance_map_post_process", ()),
        "HoVerNetNuclearTypePostProcessingd": ("type_post_process", ()),
    }
    for name, (attribute, arguments) in inner.items():
        made = getattr(ours, name)(*arguments)
        assert type(getattr(made, attribute)) is getattr(ours, name[:-1])
        assert isinstance(made, getattr(theirs_of_items, name))
        assert type(getattr(getattr(theirs_of_items, name)(*arguments), attribute)) is getattr(
            theirs, name[:-1]
        )
    whole = ours.HoVerNetInstanceMapPostProcessingd().instance_map_post_process
    assert type(whole.generate_watershed_mask) is ours.GenerateWatershedMask
    assert type(whole.watershed) is ours.Watershed


def test_keys_are_checked_as_in_monai():
    with pytest.raises(KeyError, match="already exists"):
        ours.GenerateWatershedMaskd("np")({"np": np.zeros((2, 9, 9), F), "mask": 0})
    with pytest.raises(KeyError):
        ours.GenerateWatershedMaskd("np")({})
    assert ours.GenerateWatershedMaskd("np", allow_missing_keys=True)({}) == {}
