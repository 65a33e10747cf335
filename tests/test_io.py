"""Files: every form that is read and written, and every way in which one can be broken."""

from __future__ import annotations

import importlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import cellpost
from cellpost.io import (
    FileFormatError,
    check_output,
    images,
    read_image,
    read_labels,
    read_maps,
    read_metadata,
    write_labels,
    write_overlay,
)
from cellpost.io.overlay import inner_boundary


def field(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


STACK_2D = field(3, 12, 17)
STACK_3D = field(4, 5, 12, 17)


def assert_maps(maps, stack, axes=None):
    np.testing.assert_array_equal(maps.dP, stack[:-1])
    np.testing.assert_array_equal(maps.cellprob, stack[-1])
    assert maps.dP.dtype == stack.dtype.newbyteorder("=")
    assert maps.dP.dtype.isnative
    if axes:
        assert maps.axes == axes


def write_pages(path, stack):
    first, *others = (Image.fromarray(plane) for plane in stack)
    first.save(path, save_all=True, append_images=others)


# ---- read_maps: what is read --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "stack"),
    [
        ("CYX", STACK_2D),
        ("YXS", STACK_2D.transpose(1, 2, 0)),
        ("CZYX", STACK_3D),
        ("ZCYX", STACK_3D.transpose(1, 0, 2, 3)),
        ("ZYXS", STACK_3D.transpose(1, 2, 3, 0)),
    ],
)
@pytest.mark.parametrize("form", ["ome", "plain", "tiled"])
def test_tiff_axes_are_honoured(tmp_path, axes, stack, form):
    options = {
        "ome": {"ome": True},
        "plain": {},
        "tiled": {"tile": (16, 16), "compression": "zlib"},
    }[form]
    path = tmp_path / "maps.tif"
    options |= {"photometric": "rgb" if "S" in axes else "minisblack"}
    tifffile.imwrite(path, stack, metadata={"axes": axes}, **options)
    assert_maps(read_maps(path), STACK_2D if stack.ndim == 3 else STACK_3D, axes)


@pytest.mark.parametrize("axes", ["CYX", "ZCYX"])
def test_imagej_hyperstacks(tmp_path, axes):
    stack = STACK_2D if axes == "CYX" else STACK_3D
    path = tmp_path / "maps.tif"
    ordered = stack if axes == "CYX" else stack.transpose(1, 0, 2, 3)
    tifffile.imwrite(path, ordered, imagej=True, metadata={"axes": axes})
    assert_maps(read_maps(path), stack, axes)


@pytest.mark.parametrize("stack", [STACK_2D, STACK_3D, STACK_2D[:, :1]])
def test_tiff_without_axes(tmp_path, stack):
    tifffile.imwrite(tmp_path / "maps.tif", stack, photometric="minisblack")
    assert_maps(read_maps(tmp_path / "maps.tif"), stack)


def test_tiff_of_pages(tmp_path):
    write_pages(tmp_path / "maps.tif", STACK_2D)
    assert_maps(read_maps(tmp_path / "maps.tif"), STACK_2D, "IYX")


def test_the_name_does_not_matter(tmp_path):
    with (tmp_path / "maps.dat").open("wb") as file:
        np.save(file, STACK_2D)
    assert_maps(read_maps(str(tmp_path / "maps.dat")), STACK_2D)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("stack", [STACK_2D, STACK_3D])
def test_npy_and_npz(tmp_path, stack, dtype):
    stack = stack.astype(dtype)
    np.save(tmp_path / "maps.npy", stack)
    assert_maps(read_maps(tmp_path / "maps.npy"), stack)
    np.savez_compressed(tmp_path / "maps.npz", dP=stack[:-1], cellprob=stack[-1], more=np.zeros(3))
    assert_maps(read_maps(tmp_path / "maps.npz"), stack, "CYX" if stack.ndim == 3 else "CZYX")


def test_npy_in_fortran_order_and_without_pixels(tmp_path):
    for stack in (np.asfortranarray(STACK_2D), STACK_2D[:, :0], STACK_2D[:, :, :0]):
        np.save(tmp_path / "maps.npy", stack)
        assert_maps(read_maps(tmp_path / "maps.npy"), stack)


def test_axes_given_by_the_caller(tmp_path):
    np.save(tmp_path / "maps.npy", STACK_2D.transpose(1, 2, 0))
    assert_maps(read_maps(tmp_path / "maps.npy", axes="yxc"), STACK_2D, "YXC")
    np.save(tmp_path / "maps.npy", STACK_2D.transpose(0, 2, 1))
    assert_maps(read_maps(tmp_path / "maps.npy", axes="CXY"), STACK_2D)
    tifffile.imwrite(tmp_path / "maps.tif", STACK_2D, imagej=True, metadata={"axes": "ZYX"})
    assert_maps(read_maps(tmp_path / "maps.tif", axes="CYX"), STACK_2D)


def test_axes_are_refused_where_the_file_names_its_arrays(tmp_path):
    np.savez(tmp_path / "maps.npz", dP=STACK_2D[:-1], cellprob=STACK_2D[-1])
    with pytest.raises(ValueError, match=r"^axes: expected none"):
        read_maps(tmp_path / "maps.npz", axes="CYX")


# ---- read_maps: Cellpose's _seg.npy -------------------------------------------------------------


def rounded(shape):
    return np.zeros(shape, np.uint8)


def seg_of_command_line(stack):
    lead = (1,) if stack.ndim == 3 else ()
    shape = stack.shape[1:]
    pictures = [rounded((*lead, *shape, 3)), rounded((*lead, *shape)), rounded((*lead, *shape))]
    return {
        "masks": np.zeros(shape, np.uint16),
        "flows": [*pictures, [], stack],
        "diameter": np.nan,
    }


def seg_of_gui(stack):
    lead = (1,) if stack.ndim == 3 else ()
    shape = stack.shape[1:]
    flows = [
        rounded((*lead, *shape, 3)),
        rounded((*lead, *shape)),
        stack[:-1].reshape(*lead, *stack[:-1].shape),
        stack[-1].reshape(*lead, *shape),
    ]
    if stack.ndim == 4:
        flows.append(rounded(shape))
    return {"filename": Path("image.tif"), "flows": flows, "zdraw": [None], "ismanual": {1, 2}}


@pytest.mark.parametrize("stack", [STACK_2D, STACK_3D])
@pytest.mark.parametrize("form", [seg_of_command_line, seg_of_gui])
def test_seg_npy(tmp_path, form, stack):
    np.save(tmp_path / "image_seg.npy", form(stack))
    assert_maps(read_maps(tmp_path / "image_seg.npy"), stack)


@pytest.mark.peer
@pytest.mark.parametrize("stack", [STACK_2D, STACK_3D])
def test_seg_npy_of_cellpose_itself(tmp_path, peer, stack):
    cellpose_io = importlib.import_module("cellpose.io")
    shape = stack.shape[1:]
    masks = np.zeros(shape, np.uint16)
    masks[..., 2:8, 3:9] = 1
    flows = [rounded((*shape, 3)), stack[:-1], stack[-1]]
    cellpose_io.masks_flows_to_seg(masks, masks, flows, str(tmp_path / "image.tif"))
    assert_maps(read_maps(tmp_path / "image_seg.npy"), stack)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"masks": np.zeros((3, 3))}, "without flows"),
        ({"flows": []}, "without flows"),
        ({"flows": [rounded((1, 3, 3, 3)), rounded((1, 3, 3)), rounded((1, 3, 3))]}, "8-bit"),
        ({"flows": [STACK_2D[0], STACK_2D[0], STACK_2D[:2], STACK_2D[0, 1:]]}, "got dP"),
        ([1, 2], "not Cellpose's dict"),
    ],
)
def test_seg_npy_without_maps(tmp_path, content, why):
    np.save(tmp_path / "image_seg.npy", np.array(content, dtype=object), allow_pickle=True)
    assert_refused(tmp_path / "image_seg.npy", why)


class Bomb:
    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, eval, os.system, Path.touch])
def test_no_pickle_runs_code(tmp_path, function):
    mark = tmp_path / "mark"
    argument = {
        os.mkdir: str(mark),
        eval: f"open({str(mark)!r}, 'w')",
        os.system: f"touch {mark}",
        Path.touch: mark,
    }[function]
    bomb = {"flows": [np.zeros(3), Bomb(function, argument)]}
    np.save(tmp_path / "image_seg.npy", bomb)
    assert_refused(tmp_path / "image_seg.npy", "could run code")
    assert not mark.exists()
    np.load(tmp_path / "image_seg.npy", allow_pickle=True)  # the bomb is a live one
    assert mark.exists()


# ---- read_maps: what is refused -----------------------------------------------------------------


def assert_refused(path, *parts, read=read_maps, **options):
    with pytest.raises(FileFormatError) as caught:
        read(path, **options)
    message = str(caught.value)
    for part in (str(path), "expected", "got", *parts):
        assert part in message
    assert isinstance(caught.value, ValueError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


READERS = [read_maps, read_image, read_labels]


@pytest.mark.parametrize("read", [*READERS, read_metadata])
def test_missing_folder_and_empty_file(tmp_path, read):
    assert_refused(tmp_path / "none.tif", "no file", read=read)
    assert_refused(tmp_path / "none" / "none.tif", "no file", read=read)
    assert_refused(tmp_path, "directory", read=read)
    (tmp_path / "empty.tif").touch()
    assert_refused(tmp_path / "empty.tif", "0 bytes", read=read)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["maps.tif", "maps.npy", "maps.npz", "maps.png"])
def test_not_an_image(tmp_path, name, read):
    (tmp_path / name).write_text("dY,dX,cellprob\n" * 100)
    assert_refused(tmp_path / name, read=read)


@pytest.mark.parametrize("keep", [0.999, 0.9, 0.5, 0.1, 0.02])
@pytest.mark.parametrize("form", ["npy", "npz", "seg", "strips", "tiles", "planes", "pages", "ome"])
def test_truncated_maps(tmp_path, form, keep):
    stack = field(3, 90, 110)
    path = tmp_path / "maps"
    with path.open("w+b") as file:
        if form == "npy":
            np.save(file, stack)
        elif form == "npz":
            np.savez(file, dP=stack[:2], cellprob=stack[2])
        elif form == "seg":
            np.save(file, np.array(seg_of_command_line(stack), dtype=object), allow_pickle=True)
        elif form == "pages":
            first, *others = (Image.fromarray(plane) for plane in stack)
            first.save(file, format="TIFF", save_all=True, append_images=others)
        else:
            options = {
                "strips": {"rowsperstrip": 8, "compression": "zlib", "photometric": "minisblack"},
                "tiles": {"tile": (32, 32), "compression": "zlib", "photometric": "minisblack"},
                "planes": {"photometric": "rgb", "planarconfig": "separate"},
                "ome": {"ome": True, "metadata": {"axes": "CYX"}},
            }[form]
            tifffile.imwrite(file, stack, **options)
    assert_maps(read_maps(path), stack)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert_refused(path)


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("form", ["TIFF", "PNG", "tiles"])
@pytest.mark.parametrize("keep", [0.95, 0.5, 0.1])
def test_truncated_pictures(tmp_path, read, form, keep):
    labels = np.random.default_rng(0).integers(0, 60000, (90, 110)).astype(np.uint16)
    path = tmp_path / "labels"
    with path.open("wb") as file:
        if form == "tiles":
            tifffile.imwrite(file, labels, tile=(32, 32), compression="zlib")
        else:
            Image.fromarray(labels).save(file, format=form)
    np.testing.assert_array_equal(read(path), labels)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert_refused(path, read=read)


@pytest.mark.parametrize(
    ("stack", "why"),
    [
        (field(2, 9, 8), "2 channels"),
        (field(4, 9, 8), "4 channels"),
        (field(9, 8, 3), "axes='YXC'"),
        (field(3, 5, 9, 8), "3 channels"),
        (field(9, 8), "2 axes"),
        (field(1, 4, 5, 9, 8), "5 axes"),
        (np.float32(3), "0 axes"),
        (field(3, 9, 8).astype(np.int16), "not floating point"),
        (field(3, 9, 8).astype(np.complex64), "not floating point"),
        (field(3, 9, 8) > 0, "not floating point"),
        (np.array(["a", "b"]), "1 axes"),
    ],
)
def test_npy_of_another_layout(tmp_path, stack, why):
    np.save(tmp_path / "maps.npy", stack)
    assert_refused(tmp_path / "maps.npy", why)


@pytest.mark.parametrize(
    ("shape", "axes", "why"),
    [
        ((2, 9, 8), "CYX", "2 channels"),
        ((4, 9, 8), "CYX", "4 channels"),
        ((3, 9, 8), "ZYX", "no axis of 3 channels"),  # three planes or three channels?
        ((5, 3, 9, 8), "ZCYX", "3 channels"),
        ((4, 5, 9, 8), "CTYX", "neither depth nor channels"),
        ((4, 4, 9, 8), "QQYX", "could both be channels"),
    ],
)
def test_tiff_of_another_layout(tmp_path, shape, axes, why):
    path = tmp_path / "maps.tif"
    tifffile.imwrite(path, field(*shape), metadata={"axes": axes}, photometric="minisblack")
    assert_refused(path, axes, why)


def test_axes_that_do_not_fit(tmp_path):
    np.save(tmp_path / "maps.npy", STACK_2D)
    for axes in ("YX", "CZYX", "CYY", "CAB", "XYC"):
        assert_refused(tmp_path / "maps.npy", axes=axes)


def test_npz_without_the_arrays_or_of_other_shapes(tmp_path):
    np.savez(tmp_path / "maps.npz", flow=STACK_2D[:2], cellprob=STACK_2D[2])
    assert_refused(tmp_path / "maps.npz", "no dP", "flow, cellprob")
    np.savez(tmp_path / "maps.npz")
    assert_refused(tmp_path / "maps.npz", "no dP and no cellprob")
    np.savez(tmp_path / "maps.npz", dP=STACK_2D[:2], cellprob=STACK_2D[2, 1:])
    assert_refused(tmp_path / "maps.npz", "(11, 17)")
    np.savez(tmp_path / "maps.npz", dP=STACK_2D, cellprob=STACK_2D[2])
    assert_refused(tmp_path / "maps.npz", "(3, 12, 17)")


def test_a_picture_given_for_maps(tmp_path):
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(tmp_path / "image.png")
    assert_refused(tmp_path / "image.png", "another kind")
    tifffile.imwrite(tmp_path / "image.tif", np.zeros((9, 8, 3), np.uint8), photometric="rgb")
    assert_refused(tmp_path / "image.tif", "is it an image?")


# ---- pictures -----------------------------------------------------------------------------------


def test_read_image(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (9, 14, 3)).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.png"), rgb)
    Image.fromarray(rgb).quantize(4).save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").shape == rgb.shape
    Image.fromarray(rgb).save(tmp_path / "rgb.jpg")
    assert read_image(tmp_path / "rgb.jpg").shape == rgb.shape
    tifffile.imwrite(tmp_path / "c.tif", rgb.transpose(2, 0, 1), ome=True, metadata={"axes": "CYX"})
    np.testing.assert_array_equal(read_image(tmp_path / "c.tif"), rgb)
    volume = field(5, 9, 14)
    tifffile.imwrite(tmp_path / "z.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(read_image(tmp_path / "z.tif"), volume)
    np.save(tmp_path / "grey.npy", volume[0])
    np.testing.assert_array_equal(read_image(tmp_path / "grey.npy"), volume[0])
    np.save(tmp_path / "line.npy", volume[0, 0])
    assert_refused(tmp_path / "line.npy", "(14,)", read=read_image)
    np.save(tmp_path / "seg.npy", seg_of_gui(STACK_2D))
    assert_refused(tmp_path / "seg.npy", "_seg.npy", read=read_image)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((9, 8), np.float32),
        np.zeros((9, 8), bool),
        np.array([[1, -1]], np.int32),
        np.zeros((3, 3, 9, 8), np.int32),
    ],
)
def test_read_labels_refuses(tmp_path, wrong):
    np.save(tmp_path / "labels.npy", wrong)
    assert_refused(tmp_path / "labels.npy", read=read_labels)


@pytest.mark.parametrize("name", ["labels.png", "labels.tif", "labels.jpg"])
def test_a_colour_picture_is_no_label_image(tmp_path, name):
    picture = np.zeros((9, 8, 3), np.uint8)
    if name.endswith(".tif"):
        tifffile.imwrite(tmp_path / name, picture, photometric="rgb")
    else:
        Image.fromarray(picture).save(tmp_path / name)
    assert_refused(tmp_path / name, read=read_labels)


def test_labels_of_a_palette_picture_are_its_indices(tmp_path):
    labels = np.arange(72, dtype=np.uint8).reshape(9, 8)
    picture = Image.fromarray(labels, mode="L").convert("P")
    picture.putdata(labels.ravel().tolist())
    picture.putpalette([255 - i // 3 for i in range(768)])
    picture.save(tmp_path / "labels.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.png"), labels)


# ---- write_labels -------------------------------------------------------------------------------


def many(n, shape):
    labels = np.zeros(shape, np.int32)
    labels.reshape(-1)[: n + 1] = np.arange(n + 1)
    return labels


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".npy"])
@pytest.mark.parametrize("n", [0, 1, 65_535, 65_536, 1_000_000])
def test_labels_come_back(tmp_path, suffix, n):
    path = tmp_path / f"masks{suffix}"
    labels = many(n, (1001, 1003))
    write_labels(path, labels)
    back = read_labels(path)
    np.testing.assert_array_equal(back, labels)
    assert back.dtype == (np.uint16 if n <= 65_535 else np.uint32)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (300, 5), (3, 40, 51)])
def test_tiff_is_tiled_compressed_and_has_its_axes(tmp_path, shape):
    path = tmp_path / "masks.tif"
    write_labels(path, many(4, shape) if np.prod(shape) > 4 else np.ones(shape, int))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        assert (page.tilewidth, page.tilelength) == (256, 256)
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert tiff.series[0].axes == "ZYX"[-len(shape) :]
        assert tiff.series[0].shape == shape
        assert tiff.is_ome
        assert not tiff.is_bigtiff
        assert page.tags["Software"].value == f"cellpost {cellpost.__version__}"


def test_bigtiff_where_it_could_get_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_BIGTIFF_FROM", 100)
    write_labels(tmp_path / "masks.tif", np.ones((8, 8), int))
    with tifffile.TiffFile(tmp_path / "masks.tif") as tiff:
        assert tiff.is_bigtiff
    np.testing.assert_array_equal(read_labels(tmp_path / "masks.tif"), 1)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_metadata_comes_back(tmp_path, suffix):
    path = tmp_path / f"masks{suffix}"
    metadata = {"parameters": {"niter": 200, "out_dtype": None}, "maps": '<ä> & "日本"\n'}
    write_labels(path, np.ones((4, 5), np.int8), metadata=metadata)
    software = {"software": "cellpost", "version": cellpost.__version__}
    assert read_metadata(path) == {**software, **metadata}
    np.testing.assert_array_equal(read_labels(path), 1)


def test_metadata_of_files_that_are_not_ours(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 5), int))
    Image.fromarray(np.ones((4, 5), np.uint8)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 5), np.uint8))
    tifffile.imwrite(tmp_path / "b.tif", np.ones((4, 5), np.uint8), description=json.dumps([1]))
    tifffile.imwrite(tmp_path / "c.tif", np.ones((4, 5), np.uint8), ome=True)
    for path in tmp_path.iterdir():
        assert read_metadata(path) == {}


@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy"])
def test_same_labels_same_bytes(tmp_path, suffix):
    for name in "ab":
        write_labels(tmp_path / f"{name}{suffix}", many(9, (20, 30)), metadata={"niter": 1})
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_dtype_that_was_asked_for(tmp_path):
    for dtype in ("uint8", "int16", "int32", "uint32"):
        write_labels(tmp_path / "masks.tif", many(9, (20, 30)), dtype=dtype)
        assert tifffile.imread(tmp_path / "masks.tif").dtype == dtype
    write_labels(tmp_path / "masks.npy", many(9, (20, 30)), dtype=np.int64)
    assert np.load(tmp_path / "masks.npy").dtype == np.int64


def test_strided_and_unsigned_labels(tmp_path):
    labels = many(99, (20, 30)).astype(np.uint64)[::-2, ::3].T
    write_labels(tmp_path / "masks.tif", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "masks.tif"), labels)


@pytest.mark.parametrize(
    ("name", "labels", "options", "error"),
    [
        ("m.tif", np.ones((4, 5)), {}, TypeError),
        ("m.tif", np.ones((4, 5), bool), {}, TypeError),
        ("m.tif", -np.ones((4, 5), int), {}, ValueError),
        ("m.tif", np.ones(5, int), {}, ValueError),
        ("m.tif", np.ones((1, 2, 4, 5), int), {}, ValueError),
        ("m.tif", np.ones((0, 5), int), {}, ValueError),
        ("m.tif", np.ones((4, 5), int), {"dtype": "int64"}, ValueError),
        ("m.tif", np.ones((4, 5), int), {"dtype": "float32"}, ValueError),
        ("m.tif", np.full((4, 5), 256), {"dtype": "uint8"}, OverflowError),
        ("m.tif", np.full((4, 5), 2**32), {}, OverflowError),
        ("m.png", np.full((4, 5), 65_536), {}, OverflowError),
        ("m.png", np.ones((2, 4, 5), int), {}, ValueError),
        ("m.png", np.ones((4, 5), int), {"dtype": "uint8"}, ValueError),
        ("m.jpg", np.ones((4, 5), int), {}, ValueError),
        ("m", np.ones((4, 5), int), {}, ValueError),
        ("m.tif", np.ones((4, 5), int), {"metadata": {"a": object()}}, TypeError),
    ],
)
def test_labels_that_cannot_be_written(tmp_path, name, labels, options, error):
    with pytest.raises(error, match=r".+"):
        write_labels(tmp_path / name, labels, **options)
    assert list(tmp_path.iterdir()) == []


def test_no_pixels_go_into_npy(tmp_path):
    write_labels(tmp_path / "m.npy", np.ones((0, 5), int))
    assert np.load(tmp_path / "m.npy").shape == (0, 5)


# ---- whole files or none ------------------------------------------------------------------------


def full_disk(file, *_, **__):
    file = file if hasattr(file, "write") else _[0]
    file.write(b"half a file")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("m.tif", "tifffile.imwrite"),
        ("m.npy", "numpy.save"),
        ("m.png", "PIL.Image.Image.save"),
        ("m.tif", "os.replace"),
        ("m.tif", "os.fsync"),
    ],
)
def test_nothing_half_written_stays(tmp_path, monkeypatch, name, where, there_before):
    path = tmp_path / name
    if there_before:
        path.write_bytes(b"precious")

    def refuse(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(where, refuse if where.startswith("os") else full_disk)
    with pytest.raises(OSError, match=r"No space|Input"):
        write_labels(path, np.ones((4, 5), int))
    assert [p.name for p in tmp_path.iterdir()] == ([name] if there_before else [])
    if there_before:
        assert path.read_bytes() == b"precious"


def test_overlay_leaves_nothing_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_overlay(tmp_path / "o.png", np.ones((4, 5)), np.ones((4, 5), int))
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_usual_permissions(tmp_path):
    write_labels(tmp_path / "m.tif", np.ones((4, 5), int))
    (tmp_path / "usual").touch()
    assert (tmp_path / "m.tif").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_check_output(tmp_path):
    there = tmp_path / "there.tif"
    there.touch()
    check_output(there)
    check_output(tmp_path / "new.tif", overwrite=False)
    for path, overwrite, error in [
        (there, False, FileExistsError),
        (tmp_path, True, IsADirectoryError),
        (tmp_path / "none" / "new.tif", True, FileNotFoundError),
        (there / "new.tif", True, FileNotFoundError),
        (tmp_path / ("x" * 300), True, OSError),
    ]:
        with pytest.raises(error, match=path.name):
            check_output(path, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["there.tif"]


# ---- write_overlay ------------------------------------------------------------------------------


def boundary_by_hand(labels, width):
    edge = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        for k in range(1, width + 1):
            for yy, xx in ((y - k, x), (y + k, x), (y, x - k), (y, x + k)):
                inside = 0 <= yy < labels.shape[0] and 0 <= xx < labels.shape[1]
                if labels[y, x] and inside and labels[yy, xx] != labels[y, x]:
                    edge[y, x] = True
    return edge


@pytest.mark.parametrize("width", [1, 2])
def test_inner_boundary(width):
    labels = np.random.default_rng(0).integers(0, 3, (7, 9)).repeat(2, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(
        inner_boundary(labels, width=width), boundary_by_hand(labels, width)
    )


@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,), (7,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float16, bool])
def test_overlay_draws_on_the_boundary_alone(tmp_path, channels, dtype):
    image = (np.random.default_rng(1).random((20, 30, *channels)) * 200).astype(dtype)
    labels = np.zeros((20, 30), np.int32)
    labels[3:9, 4:12], labels[9:15, 4:12] = 1, 2
    write_overlay(tmp_path / "plain.png", image, labels * 0)
    write_overlay(tmp_path / "cells.png", image, labels)
    plain, cells = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("plain", "cells"))
    edge = inner_boundary(labels)
    assert plain.shape == cells.shape == (20, 30, 3)
    np.testing.assert_array_equal(plain[~edge], cells[~edge])
    colours = [np.unique(cells[edge & (labels == i)], axis=0) for i in (1, 2)]
    assert [len(c) for c in colours] == [1, 1]
    assert np.abs(colours[0].astype(int) - colours[1]).max() > 100


def test_overlay_of_a_volume_and_scaled(tmp_path):
    image, labels = field(5, 9, 8), np.zeros((5, 9, 8), np.uint16)
    labels[2, 2:6, 2:6] = 7
    image[0, 0, 0] = np.nan
    write_overlay(tmp_path / "volume.png", image, labels)
    write_overlay(tmp_path / "plane.png", image[2], labels[2])
    assert (tmp_path / "volume.png").read_bytes() == (tmp_path / "plane.png").read_bytes()
    write_overlay(tmp_path / "scaled.png", image, labels, scale=3)
    assert Image.open(tmp_path / "scaled.png").size == (24, 27)


@pytest.mark.parametrize(
    "image", [np.full((4, 5), np.nan), np.zeros((4, 5)), np.full((4, 5), 1e30)]
)
def test_overlay_on_a_flat_image(tmp_path, image):
    cells = np.eye(4, 5, dtype=int)
    write_overlay(tmp_path / "o.png", image, cells)
    drawn = np.asarray(Image.open(tmp_path / "o.png"))
    assert drawn.shape == (4, 5, 3)
    assert len(np.unique(drawn[cells == 0])) == 1  # one grey
    assert (drawn[cells > 0] != drawn[0, 1]).any(axis=-1).all()


@pytest.mark.parametrize(
    ("name", "image", "labels", "options"),
    [
        ("o.png", np.ones((4, 6)), np.ones((4, 5), int), {}),
        ("o.png", np.ones((3, 4, 5)), np.ones((4, 5), int), {}),
        ("o.png", np.ones((4, 5)), np.ones((4, 5)), {}),
        ("o.png", np.ones((0, 5)), np.ones((0, 5), int), {}),
        ("o.png", np.ones((4, 5)), np.ones((4, 5), int), {"scale": 0}),
        ("o.tif", np.ones((4, 5)), np.ones((4, 5), int), {}),
    ],
)
def test_overlay_refuses(tmp_path, name, image, labels, options):
    with pytest.raises(ValueError, match="expected"):
        write_overlay(tmp_path / name, image, labels, **options)
    assert list(tmp_path.iterdir()) == []


def test_pickle_protocols(tmp_path):
    """Old and new NumPy differ in the pickle protocol of an .npy file."""
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"{protocol}_seg.npy"
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|O", "fortran_order": False, "shape": ()}
            )
            content = np.array(seg_of_command_line(STACK_2D), dtype=object)
            pickle.dump(content, file, protocol=protocol)
        assert_maps(read_maps(path), STACK_2D)
