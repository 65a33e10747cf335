"""What all recipes have in common: kinds of images, real modules, empty images, scores."""

from __future__ import annotations

import importlib
import inspect

import numpy as np
import pytest
from recipe_networks import F, everything, middle_cell, nothing
from recipe_rows import ROWS, tested

import cellpost
from cellpost import metrics, recipes
from cellpost.recipes._arguments import named
from cellpost.synthetic import DetectionNetwork, FlowNetwork, HoverNetwork, Scene

FLOWS, HOVER, FOUND = (
    network(noise=0.02) for network in (FlowNetwork, HoverNetwork, DetectionNetwork)
)
# Recipe, networks, and what of the published options simulated networks and small images need.
RECIPES = {
    "mediar": ([FLOWS], {"normalize": None}),
    "vsm": ([FOUND, middle_cell], {"normalize": None, "tile": 128, "stride": 90}),
    "train4ever": ([FOUND], {}),
    "hovernet_weak": ([HOVER], {}),
    "sartorius": ([FLOWS, FOUND], {"detector_sizes": [520]}),
}
WITH_SCORES = ("vsm", "train4ever", "sartorius")


@pytest.fixture(scope="module")
def scene():
    return Scene((220, 240), "nuclei", diameter=26, density=0.2, seed=4)


def run(name, image, networks=None, **options):
    own, how = RECIPES[name]
    how = {"channel_axis": 0, **how, **options}
    return getattr(recipes, name)(image, *(networks or own), **how)


def test_every_row_has_a_test_that_names_it():
    for name in RECIPES:
        importlib.import_module(f"test_recipes_{name.split('_')[0]}")
    assert tested == {(system, step) for system, steps in ROWS.items() for step in steps}


def test_recipes_are_listed():
    assert sorted(recipes.__all__) == sorted(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_kinds_of_images(name, scene, kind):
    image = scene.encoded[...]
    expected = run(name, image)
    got = run(name, kind.put(image))
    assert kind.owns(got)
    assert kind.get(got).dtype == np.int32
    np.testing.assert_array_equal(kind.get(got), expected)
    assert metrics.f1(scene.labels[...], expected, exclude_border=2) >= 0.95


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("paper", [False, True])
def test_images_that_are_read_in_parts(name, scene, paper):
    image = scene.encoded[...]
    expected = run(name, image, paper=paper)
    assert isinstance(expected, np.ndarray)
    np.testing.assert_array_equal(run(name, scene.encoded, paper=paper), expected)
    moved = np.moveaxis(image, 0, -1).copy()
    np.testing.assert_array_equal(run(name, moved, paper=paper, channel_axis=-1), expected)
    np.testing.assert_array_equal(moved, np.moveaxis(image, 0, -1))  # not written to


@pytest.mark.parametrize("name", WITH_SCORES)
@pytest.mark.parametrize("kind_of_image", ["numpy", "torch"])
@pytest.mark.parametrize("paper", [False, True])
def test_scores_are_those_of_the_labels(name, scene, kind_of_image, paper):
    image = scene.encoded[...]
    if kind_of_image == "torch":
        image = pytest.importorskip("torch").from_numpy(image)
    labels = run(name, image, paper=paper)
    again, scores = run(name, image, paper=paper, return_scores=True)
    np.testing.assert_array_equal(again, labels)
    scores = np.asarray(scores)
    assert scores.dtype == np.float64
    assert scores.shape == (int(labels.max()),)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("shape", [(0, 0), (0, 50), (50, 0), (1, 1), (40, 30)], ids=str)
@pytest.mark.parametrize("paper", [False, True])
def test_images_without_pixels_or_cells(name, shape, paper):
    image = np.zeros((2, *shape), F)
    labels = run(name, image, paper=paper)
    assert (labels.shape, labels.dtype, labels.any()) == (shape, np.int32, False)
    if name in WITH_SCORES:
        labels, scores = run(name, image, paper=paper, return_scores=True)
        assert (labels.shape, scores.shape) == (shape, (0,))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("shape", [(0, 7), (9, 12)])
def test_images_without_cells_of_bytes(name, shape):
    """Grey and RGB, as files hold them, with each recipe's own normalisation."""
    networks = {
        "mediar": [lambda batch: np.repeat(batch[:, :1] * 0 - 5, 3, 1)],
        "hovernet_weak": [lambda batch: np.repeat(batch[:, :1] * 0, 3, 1)],
        "sartorius": [lambda batch: np.repeat(batch[:, :1] * 0 - 5, 3, 1), nothing],
        "train4ever": [nothing],
        "vsm": [nothing, everything],
    }[name]
    for image in (np.zeros(shape, np.uint8), np.zeros((*shape, 3), np.uint8)):
        axis = None if image.ndim == 2 else -1
        labels = getattr(recipes, name)(image, *networks, channel_axis=axis)
        assert (labels.shape, labels.any()) == (shape, False)


# ---- real modules -------------------------------------------------------------------------------


def bright_discs(shape=(116, 138)):
    """A grey image of bright discs, and the discs."""
    truth = np.zeros(shape, np.int32)
    y, x = np.indices(shape)
    for k in range(12):
        row, column = divmod(k, 4)
        inside = (y - 22 - 34 * row) ** 2 + (x - 20 - 33 * column) ** 2 <= 11**2
        truth[inside] = k + 1
    rng = np.random.default_rng(0)
    grey = np.where(truth > 0, 200, 20) + rng.integers(-8, 8, shape)
    return grey.astype(np.uint8), truth


@pytest.fixture(scope="module")
def modules():
    """Small PyTorch modules that see bright discs: `flows`, `hover`, `detector`, `segmenter`."""
    torch = pytest.importorskip("torch")

    class Bright(torch.nn.Module):
        """A logit of brightness, by a convolution over all channels."""

        def __init__(self, n_channels, level, gain):
            super().__init__()
            self.conv = torch.nn.Conv2d(n_channels, 1, 3, padding=1, padding_mode="replicate")
            torch.nn.init.constant_(self.conv.weight, gain / (9 * n_channels))
            torch.nn.init.constant_(self.conv.bias, -gain * level)

        def forward(self, batch):
            return self.conv(batch)

    class Flows(Bright):
        """Up the slope of the blurred image, five times the unit."""

        def forward(self, batch):
            logit = super().forward(batch)
            blurred = torch.sigmoid(logit)
            for _ in range(12):
                blurred = torch.nn.functional.avg_pool2d(blurred, 5, 1, 2)
            flow = torch.cat(torch.gradient(blurred, dim=(2, 3)), 1)
            flow = 5 * flow / flow.norm(dim=1, keepdim=True).clamp_min(1e-6)
            return torch.cat([flow, logit], 1)

    class Hover(Bright):
        """Against the slope."""

        def forward(self, batch):
            logit = super().forward(batch)
            blurred = torch.sigmoid(logit)
            for _ in range(8):
                blurred = torch.nn.functional.avg_pool2d(blurred, 5, 1, 2)
            dy, dx = torch.gradient(blurred, dim=(2, 3))
            return torch.cat([torch.sigmoid(logit), -10 * dx, -10 * dy], 1)

    class Detector(Bright):
        """Connected components, as torchvision's dicts."""

        def forward(self, batch):
            outputs = []
            for tile in super().forward(batch)[:, 0]:
                labels = cellpost.label((tile > 0).numpy())
                table = cellpost.properties(labels)
                boxes = torch.from_numpy(table["bbox"][:, [1, 0, 3, 2]].astype(np.float32))
                ids = torch.arange(1, len(boxes) + 1)[:, None, None]
                masks = (torch.from_numpy(labels)[None] == ids).float()[:, None]
                scores = torch.full((len(boxes),), 0.9)
                outputs.append({"boxes": boxes, "scores": scores, "masks": masks})
            return outputs

    class Segmenter(Bright):
        def forward(self, batch):
            return torch.sigmoid(super().forward(batch))

    kinds = {"flows": Flows, "hover": Hover, "detector": Detector, "segmenter": Segmenter}
    return {
        name: (lambda n, level, gain, kind=kind: kind(n, level, gain))
        for name, kind in kinds.items()
    }


NETWORKS = {
    "mediar": (("flows",), 1.0, {}),
    "vsm": (("detector", "segmenter"), 255.0, {"tile": 128, "stride": 90}),
    "train4ever": (("detector",), 255.0, {}),
    "hovernet_weak": (("hover",), 255.0, {"tile": 128}),
    "sartorius": (("flows", "detector"), 255.0, {"tile": 116, "stride": 64}),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("colour", ["grey", "rgb", "torch"])
def test_modules_segment_grey_and_rgb_images(name, colour, modules):
    """All as published: normalisation, views, sizes."""
    image, truth = bright_discs()
    kinds, white, how = NETWORKS[name]
    n_channels = 1 if colour == "grey" and name != "vsm" else 3
    if colour != "grey":
        image = np.stack([image, image, image], axis=-1)
    networks = [modules[one](n_channels, 0.45 * white, 20 / white) for one in kinds]
    if colour == "torch":
        image = pytest.importorskip("torch").from_numpy(image)
    labels = getattr(recipes, name)(image, *networks, **how)
    assert type(labels) is type(image)
    assert metrics.f1(truth, np.asarray(labels)) == 1
    for network in networks:
        assert network.training  # as it was


# ---- names of arguments -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError, cellpost.NoCellsError])
def test_errors_get_the_names_of_the_callers_arguments(error):
    for message, expected in (
        ("model: expected a; got b", "models: expected a; got b"),
        ("model[0]: expected", "models[0]: expected"),
        ("model.x: expected", "models.x: expected"),
        ("model of mine: expected", "model of mine: expected"),
        ("models: expected a model: b", "models: expected a model: b"),
        ("", ""),
    ):
        with pytest.raises(error) as caught, named(model="models"):
            raise error(message)
        assert (str(caught.value), type(caught.value)) == (expected, error)


def test_other_errors_pass():
    with pytest.raises(KeyError, match="model:"), named(model="models"):
        raise KeyError("model:")


@pytest.mark.parametrize("name", RECIPES)
def test_options_are_named(name):
    """Only the image and the networks go by place."""
    parameters = inspect.signature(getattr(recipes, name)).parameters.values()
    by_place = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(by_place) == 1 + len(RECIPES[name][0])
