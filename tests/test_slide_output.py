"""Slides' outputs: label arrays on disk, OME-Zarr pyramids, tables of cells."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simulate
import tifffile

import cellpost
from cellpost.slide.memory import memory_bytes
from cellpost.slide.output import create_labels
from cellpost.slide.pyramid import write_ngff
from cellpost.slide.table import cell_table

FORMATS = ("zarr3", "zarr2", "bigtiff")
SUFFIX = {"zarr3": ".zarr", "zarr2": ".zarr", "bigtiff": ".tif"}


@pytest.fixture(params=FORMATS)
def form(request):
    if request.param != "bigtiff":
        zarr3()
    return request.param


def zarr3():
    """The package zarr; skips where there is none that knows Zarr v3."""
    return pytest.importorskip("zarr", minversion="3")


def read(path, form):
    return tifffile.imread(path) if form == "bigtiff" else zarr3().open_array(str(path))[...]


def digest(path):
    """Of all files under a path, by name."""
    path = Path(path)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    text = b"".join(str(f.relative_to(path)).encode() + f.read_bytes() for f in files)
    return hashlib.sha256(text).hexdigest()


def random_windows(shape, rng, n):
    for _ in range(n):
        ends = [np.sort(rng.integers(0, size + 1, 2)) for size in shape]
        yield tuple(slice(int(a), int(b)) for a, b in ends)


# ---- label arrays -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (50, 70), (129, 64), (3, 40, 33)])
@pytest.mark.parametrize("seed", range(3))
def test_windows_in_any_order_are_a_memory_image(tmp_path, form, shape, seed):
    rng = np.random.default_rng(seed)
    dtype = ("int32", "uint32", "uint16")[seed]
    expected = np.zeros(shape, dtype)
    path = tmp_path / f"cells{SUFFIX[form]}"
    with create_labels(path, shape, dtype=dtype, chunks=16 * (1 + seed), format=form) as out:
        assert (out.shape, out.dtype, out.ndim) == (shape, np.dtype(dtype), len(shape))
        for window in random_windows(shape, rng, 12):
            labels = rng.integers(0, 60000, [p.stop - p.start for p in window])
            out[window] = expected[window] = labels
        for window in random_windows(shape, rng, 5):
            np.testing.assert_array_equal(out[window], expected[window])
        np.testing.assert_array_equal(out[...], expected)
    found = read(path, form)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found.reshape(shape), expected)
    assert os.listdir(tmp_path) == [path.name]  # nothing is left beside it


@pytest.mark.parametrize("compression", ["zstd", "deflate", "none"])
def test_compression_is_what_was_asked_for_and_bytes_repeat(tmp_path, form, compression):
    known = "deflate" if form == "bigtiff" else "zstd"
    if compression not in (known, "none"):
        with pytest.raises(ValueError, match=f"compression: expected '{known}' or 'none' with"):
            create_labels(tmp_path / "c", (4, 4), format=form, compression=compression)
        return
    labels = simulate.blobs((200, 300), 40, seed=1)
    sizes, digests = [], []
    for k in range(2):
        path = tmp_path / f"{k}{SUFFIX[form]}"
        with create_labels(
            path, labels.shape, chunks=64, format=form, compression=compression
        ) as out:
            out[...] = labels
        np.testing.assert_array_equal(read(path, form), labels)
        digests.append(digest(path))
        files = [path] if path.is_file() else path.rglob("*")
        sizes.append(sum(p.stat().st_size for p in files if p.is_file()))
    assert digests[0] == digests[1]
    assert (sizes[0] < labels.nbytes / 4) == (compression != "none")


def test_a_bigtiff_is_one_in_tiles(tmp_path):
    with create_labels(tmp_path / "c.tif", (100, 90), chunks=(32, 48)) as out:
        out[5:9, 5:9] = 3
    with tifffile.TiffFile(tmp_path / "c.tif") as tiff:
        page = tiff.pages.first
        assert tiff.is_bigtiff
        assert page.tile == (32, 48)
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert tiff.series[0].axes == "YX"


def test_zarr_chunks_keys_and_background(tmp_path):
    zarr = zarr3()
    with create_labels(tmp_path / "c.zarr", (100, 90), chunks=32) as out:
        out[...] = 0
        out[40:50, 40:50] = 7
    array = zarr.open_array(str(tmp_path / "c.zarr"))
    assert array.chunks == (32, 32)
    assert array.metadata.zarr_format == 3
    assert array.metadata.dimension_names == ("y", "x")
    stored = sorted(
        str(p.relative_to(tmp_path / "c.zarr"))
        for p in (tmp_path / "c.zarr").rglob("*")
        if p.is_file()
    )
    assert stored == ["c/1/1", "zarr.json"]
    with create_labels(tmp_path / "old.zarr", (100, 90), chunks=32, format="zarr2") as out:
        out[40:50, 40:50] = 7
    header = json.loads((tmp_path / "old.zarr" / ".zarray").read_text())
    assert (header["zarr_format"], header["dimension_separator"]) == (2, "/")


def test_a_failure_leaves_no_tiff_and_what_was_there(tmp_path):
    path = tmp_path / "c.tif"
    with create_labels(path, (20, 20), chunks=16) as out:
        out[...] = 4
    before = path.read_bytes()

    def fail():
        with create_labels(path, (30, 30), chunks=16, overwrite=True) as again:
            again[:5, :5] = 1
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.tif"]
    with create_labels(path, (30, 30), chunks=16, overwrite=True) as again:
        again[:5, :5] = 1
    assert tifffile.imread(path).sum() == 25
    again.close()  # twice does no harm
    with pytest.raises(ValueError, match=r"c\.tif: is closed"):
        again[:1, :1] = 1


def test_an_existing_output_is_refused(tmp_path, form):
    path = tmp_path / f"c{SUFFIX[form]}"
    with create_labels(path, (20, 20), chunks=16, format=form) as out:
        out[...] = 4
    before = digest(path)
    with pytest.raises(FileExistsError, match="exists already; overwrite"):
        create_labels(path, (20, 20), chunks=16, format=form)
    assert digest(path) == before
    with create_labels(path, (10, 30), chunks=16, format=form, overwrite=True) as out:
        out[:1, :1] = 1
    assert read(path, form).sum() == 1


def test_overwriting_spares_what_is_no_label_array(tmp_path):
    zarr = zarr3()
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "folder.zarr" / "thesis.txt").write_text("years")
    zarr.open_group(str(tmp_path / "image.zarr"), mode="w")
    for name in ("folder.zarr", "image.zarr"):
        with pytest.raises(FileExistsError, match="expected a Zarr array to replace"):
            create_labels(tmp_path / name, (20, 20), overwrite=True)
    assert (tmp_path / "folder.zarr" / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("name", ["c.zarr", "c.tif"])
def test_folders_that_take_no_file(tmp_path, name):
    if name.endswith(".zarr"):
        zarr3()
    with pytest.raises(FileNotFoundError, match="expected an existing folder"):
        create_labels(tmp_path / "none" / name, (4, 4))
    if Path("/proc").is_dir():  # not even root may write there
        with pytest.raises(OSError, match="takes no new file"):
            create_labels(Path("/proc") / name, (4, 4))


def test_a_disk_without_room_is_found_out_before(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    with pytest.raises(OSError, match=r"expected 0\.00 GB|expected 4\.29 GB of disk") as caught:
        create_labels(tmp_path / "c.tif", (32768, 32768))
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shape": (0, 5)}, ValueError, r"shape: expected sizes of at least 1; got \(0, 5\)"),
        ({"shape": (5,)}, ValueError, "shape: expected 2 or 3 lengths"),
        ({"shape": (2.5, 3)}, TypeError, "shape: expected an integer; got 2.5"),
        ({"shape": (-1, 3)}, ValueError, "shape: expected lengths >= 0"),
        ({"dtype": "float32"}, TypeError, "dtype: expected one of uint16, int32, uint32; got"),
        ({"dtype": "int64"}, TypeError, "dtype: expected one of"),
        ({"chunks": 0}, ValueError, "chunks: expected sides of at least 1; got 0"),
        ({"chunks": (4, 4, 4)}, ValueError, "chunks: expected 2 lengths"),
        ({"chunks": 1.5}, TypeError, "chunks: expected an integer; got 1.5"),
        ({"chunks": 20}, ValueError, "chunks: expected sides of a multiple of 16"),
        ({"format": "n5"}, ValueError, "format: expected 'zarr3', 'zarr2' or 'bigtiff'; got 'n5'"),
        ({"path": "c.png"}, ValueError, r"path: expected a name that ends in \.zarr, \.tif"),
        ({"compression": "lzw"}, ValueError, "compression: expected 'deflate' or 'none' with"),
    ],
)
def test_bad_options_are_named(tmp_path, options, error, message):
    given = {"path": "c.tif", "shape": (40, 40), **options}
    with pytest.raises(error, match=message):
        create_labels(tmp_path / given.pop("path"), given.pop("shape"), **given)
    assert os.listdir(tmp_path) == []


def test_bad_values_and_keys_are_named(tmp_path):
    with create_labels(tmp_path / "c.tif", (40, 40), dtype="uint16", chunks=16) as out:
        with pytest.raises(TypeError, match="labels: expected an integer dtype; got float64"):
            out[:2, :2] = np.zeros((2, 2))
        with pytest.raises(ValueError, match="labels: expected ids >= 0; got -1"):
            out[:2, :2] = -1
        with pytest.raises(OverflowError, match="dtype: expected a dtype that holds ids up to 700"):
            out[:2, :2] = np.full((2, 2), 70000)
        with pytest.raises(ValueError, match=r"labels: expected shape \(2, 2\); got \(3, 2\)"):
            out[:2, :2] = np.ones((3, 2), int)
        for key in (3, np.s_[::2, :], np.s_[:, :, :], np.s_[[1, 2]]):
            with pytest.raises(IndexError, match="key: expected 2 slices of step 1"):
                out[key] = 1
        assert out[...].sum() == 0


def test_zarr_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"got none: pip install 'cellpost\[zarr\]'"):
        create_labels(tmp_path / "c.zarr", (4, 4))


# ---- memory limits ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [("2GB", 2 * 10**9), ("1.5 MiB", 3 * 2**19), ("100", 100), (4096, 4096), ("7K", 7000)],
)
def test_limits_of_memory(given, expected):
    assert memory_bytes(given) == expected


@pytest.mark.parametrize("given", ["", "two", "2XB", 0, -1, None, True, "0GB", float("nan")])
def test_limits_that_say_nothing(given):
    with pytest.raises(ValueError, match="memory: expected bytes, or a text such as '2GB'"):
        memory_bytes(given)


# ---- OME-Zarr -----------------------------------------------------------------------------------


def ome_of(path, form):
    """Metadata of a group, wherever its version of OME-NGFF has it."""
    if form == "zarr3":
        return json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    return json.loads((path / ".zattrs").read_text())


def check_ngff(group, form, ndim, dtypes):
    """The rules of OME-NGFF 0.4 and 0.5 for a group of labels."""
    zarr = zarr3()
    listing = ome_of(group.parent, form)
    assert group.name in listing["labels"]
    about = ome_of(group, form)
    (scales,) = about["multiscales"]
    version = {"zarr3": (about, "0.5"), "zarr2": (scales, "0.4")}[form]
    assert version[0]["version"] == version[1]
    assert "image-label" in about
    assert [axis["name"] for axis in scales["axes"]] == list("zyx"[-ndim:])
    assert all(axis["type"] == "space" for axis in scales["axes"])
    last = None
    for dataset in scales["datasets"]:
        array = zarr.open_array(str(group / dataset["path"]), mode="r")
        assert array.metadata.zarr_format == {"zarr3": 3, "zarr2": 2}[form]
        assert array.ndim == ndim
        assert array.dtype in dtypes
        first, second = dataset["coordinateTransformations"]
        assert (first["type"], second["type"]) == ("scale", "translation")
        assert len(first["scale"]) == len(second["translation"]) == ndim
        assert last is None or all(a <= b for a, b in zip(array.shape, last, strict=True))
        last = array.shape
    return scales


@pytest.mark.parametrize("form", ["zarr3", "zarr2"])
@pytest.mark.parametrize("shape", [(300, 421), (3, 100, 130), (1, 1)])
def test_levels_are_every_second_pixel(tmp_path, form, shape):
    zarr = zarr3()
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 90, shape).astype(np.uint32)
    group = write_ngff(
        labels, tmp_path / "s.zarr", scale=0.25, offset=3.0, levels=4, chunks=32, format=form
    )
    scales = check_ngff(group, form, len(shape), [np.dtype(np.uint32)])
    assert [axis["unit"] for axis in scales["axes"]] == ["micrometer"] * len(shape)
    for k, dataset in enumerate(scales["datasets"]):
        step = 2**k
        found = zarr.open_array(str(group / dataset["path"]))[...]
        np.testing.assert_array_equal(found, labels[..., ::step, ::step])
        scale, translation = (t[t["type"]] for t in dataset["coordinateTransformations"])
        # Where a level's pixel lies is the mean of where those of its block do.
        middle = 3.0 + 0.25 * np.arange(step).mean()
        planes = len(shape) - 2
        assert scale == [0.25] * planes + [0.25 * step] * 2
        assert translation == [3.0] * planes + [middle] * 2


@pytest.mark.parametrize("form", ["zarr3", "zarr2"])
def test_labels_are_added_to_an_image(tmp_path, form):
    zarr = zarr3()
    image = tmp_path / "image.zarr"
    root = zarr.open_group(str(image), mode="w", zarr_format={"zarr3": 3, "zarr2": 2}[form])
    root.create_array("0", data=np.ones((40, 50), np.uint8))
    scales = [{"axes": [], "datasets": [{"path": "0"}]}]
    about = (
        {"multiscales": scales}
        if form == "zarr2"
        else {"ome": {"version": "0.5", "multiscales": scales}}
    )
    root.attrs.update(about)
    labels = np.zeros((40, 50), np.int32)
    labels[3:8, 5:9] = 7
    write_ngff(labels, image, name="nuclei")
    group = write_ngff(labels, image)
    assert ome_of(group.parent, form)["labels"] == ["nuclei", "cells"]
    assert ome_of(group, form)["image-label"]["source"] == {"image": "../../"}
    assert dict(zarr.open_group(str(image)).attrs) == about
    np.testing.assert_array_equal(zarr.open_array(str(image / "0"))[...], 1)
    check_ngff(group, form, 2, [np.dtype(np.int32)])
    before = digest(image)
    with pytest.raises(FileExistsError, match=r"cells: exists already; overwrite=True replaces"):
        write_ngff(labels, image)
    assert digest(image) == before
    write_ngff(labels * 2, image, overwrite=True)
    assert zarr.open_array(str(group / "0"))[...].max() == 14
    assert ome_of(group.parent, form)["labels"] == ["nuclei", "cells"]


def test_level_zero_may_be_there_already(tmp_path):
    zarr3()
    labels = simulate.blobs((150, 130), 30, seed=2)
    with create_labels(tmp_path / "a.zarr/labels/cells/0", labels.shape, chunks=64) as out:
        out[...] = labels
    a = write_ngff(None, tmp_path / "a.zarr", chunks=64)
    b = write_ngff(labels, tmp_path / "b.zarr", chunks=64)
    check_ngff(a, "zarr3", 2, [np.dtype(np.int32)])
    assert digest(a) == digest(b)
    with pytest.raises(ValueError, match="labels: expected others than are replaced"):
        write_ngff(out, tmp_path / "a.zarr", overwrite=True)


def test_dtypes_are_kept_or_become_int32(tmp_path):
    zarr = zarr3()
    for dtype, expected in (("uint16", "uint16"), ("int64", "int32"), ("uint8", "int32")):
        group = write_ngff(np.full((4, 5), 9, dtype), tmp_path / f"{dtype}.zarr")
        array = zarr.open_array(str(group / "0"))
        assert array.dtype == expected
        assert (array[...] == 9).all()
    with pytest.raises(OverflowError, match="holds ids up to 4294967296"):
        write_ngff(np.full((4, 5), 2**32), tmp_path / "large.zarr")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "a/b"}, ValueError, "name: expected that of a group in labels/"),
        ({"name": ""}, ValueError, "name: expected"),
        ({"scale": 0}, ValueError, "scale: expected sizes above 0; got 0"),
        ({"scale": (1, 2, 3)}, ValueError, "scale: expected one number, or one for each of 2"),
        ({"offset": np.inf}, ValueError, "offset: expected finite numbers; got inf"),
        ({"levels": 0}, ValueError, "levels: expected 1 to 32; got 0"),
        ({"chunks": 0}, ValueError, "chunks: expected sides of at least 1; got 0"),
        ({"format": "bigtiff"}, ValueError, "format: expected 'zarr3' or 'zarr2'; got 'bigtiff'"),
        ({"labels": np.zeros((2, 2))}, TypeError, "labels: expected an integer dtype; got float64"),
        ({"labels": [[1]]}, TypeError, "labels: expected an array; got list"),
        ({"labels": np.zeros((0, 2), int)}, ValueError, "labels: expected .* none of them 0"),
        ({"labels": None}, ValueError, "labels: expected an array, or one at .*0; got None"),
    ],
)
def test_bad_input_of_pyramids(tmp_path, options, error, message):
    zarr3()
    given = {"labels": np.ones((4, 4), np.int32), **options}
    with pytest.raises(error, match=message):
        write_ngff(given.pop("labels"), tmp_path / "s.zarr", **given)
    assert not (tmp_path / "s.zarr" / "zarr.json").exists()


def test_pyramids_refuse_other_folders_and_formats(tmp_path):
    zarr = zarr3()
    labels = np.ones((4, 4), np.int32)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError, match="expected a Zarr group; got something else"):
        write_ngff(labels, tmp_path / "folder")
    with create_labels(tmp_path / "array.zarr", (4, 4)):
        pass
    with pytest.raises(FileExistsError, match="expected a Zarr group"):
        write_ngff(labels, tmp_path / "array.zarr")
    zarr.open_group(str(tmp_path / "old.zarr"), mode="w", zarr_format=2)
    with pytest.raises(FileExistsError, match="expected format 'zarr2', as its group's"):
        write_ngff(labels, tmp_path / "old.zarr", format="zarr3")


# ---- tables -------------------------------------------------------------------------------------


def rows_of(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def expected_rows(labels, scores=None, types=None):
    """The table in memory, as text."""
    cells = cellpost.properties(labels)
    axes = "zyx"[-labels.ndim :]
    rows = []
    for k, label in enumerate(cells["label"].tolist()):
        row = {"id": label}
        row |= {
            f"centroid_{a}": v for a, v in zip(axes, cells["centroid"][k].tolist(), strict=True)
        }
        names = [f"{a}{end}" for end in (0, 1) for a in axes]
        row |= dict(zip(names, cells["bbox"][k].tolist(), strict=True))
        row["area"] = int(cells["area"][k])
        if scores is not None:
            row["score"] = scores[label - 1]
        if types is not None:
            row["type"] = types[label - 1]
        rows.append({name: str(value) for name, value in row.items()})
    return rows


@pytest.mark.parametrize("step", [1, 3, 10**6])
def test_table_is_that_of_the_whole_image(tmp_path, nuclei2d, monkeypatch, step):
    monkeypatch.setattr("cellpost.slide.table._SIDE", {2: 32})  # blocks smaller than cells
    monkeypatch.setattr("cellpost.slide.table._ROWS", 100)
    labels = nuclei2d.astype(np.int64) * step
    n = int(labels.max()) if step < 10 else 0
    scores = np.random.default_rng(0).random(n) if n else None
    types = np.arange(n) % 5 if n else None
    for memory in (64 * 32**2, 64 * 101**2, "2GB"):
        path = tmp_path / f"{memory}.csv"
        found = cell_table(labels, path, scores=scores, class_ids=types, memory=memory)
        rows = rows_of(path)
        assert len(rows) == found == len(np.unique(labels)) - 1
        assert rows == expected_rows(
            labels, None if n == 0 else scores.tolist(), None if n == 0 else types.tolist()
        )


def test_table_of_a_volume_and_of_nothing(tmp_path, nuclei3d, monkeypatch):
    monkeypatch.setattr("cellpost.slide.table._SIDE", {2: 16, 3: 16})
    assert cell_table(nuclei3d, tmp_path / "v.csv", memory=64 * 16**3) > 0
    assert rows_of(tmp_path / "v.csv") == expected_rows(nuclei3d)
    assert cell_table(np.zeros((40, 50), np.uint8), tmp_path / "0.csv") == 0
    assert (tmp_path / "0.csv").read_text() == "id,centroid_y,centroid_x,y0,x0,y1,x1,area\n"
    assert cell_table(np.zeros((0, 50), np.uint8), tmp_path / "e.csv") == 0


def test_table_of_what_is_read_lazily(tmp_path, form):
    labels = simulate.blobs((120, 130), 40, seed=4)
    path = tmp_path / f"c{SUFFIX[form]}"
    with create_labels(path, labels.shape, chunks=32, format=form) as out:
        out[...] = labels
        cell_table(out, tmp_path / "a.csv", memory=64 * 256**2)
    assert rows_of(tmp_path / "a.csv") == expected_rows(labels)
    if form != "bigtiff":
        cell_table(zarr3().open_array(str(path)), tmp_path / "b.csv")
        assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    dask = pytest.importorskip("dask.array")
    cell_table(dask.from_array(labels, chunks=50), tmp_path / "d.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "d.csv").read_bytes()


def test_parquet_holds_the_same(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    labels = simulate.blobs((120, 130), 40, seed=4)
    scores = np.linspace(0, 1, 40)
    cell_table(labels, tmp_path / "c.parquet", scores=scores)
    found = parquet.read_table(tmp_path / "c.parquet").to_pylist()
    as_text = [{name: str(value) for name, value in row.items()} for row in found]
    assert as_text == expected_rows(labels, scores.tolist())


def test_parquet_without_pyarrow_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'cellpost\[parquet\]'"):
        cell_table(np.ones((2, 2), int), tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": np.ones((2, 2))}, TypeError, "labels: expected an integer dtype"),
        ({"labels": np.ones(4, int)}, TypeError, "labels: expected an array"),
        ({"labels": [[1, 1]]}, TypeError, "labels: expected an array"),
        ({"labels": -np.ones((2, 2), int)}, ValueError, "labels: expected ids >= 0; got -1"),
        ({"scores": np.ones(2)}, ValueError, "scores: expected 3, one for each id; got 2"),
        ({"scores": np.ones((3, 1))}, ValueError, r"scores: expected shape \(n,\); got \(3, 1\)"),
        ({"class_ids": np.ones(1, int)}, ValueError, "class_ids: expected 3, one for each id"),
        ({"memory": "1MB"}, ValueError, "memory: expected at least 5MB, a block of 256 pixels"),
        ({"path": "c.txt"}, ValueError, r"path: expected a name that ends in \.csv or \.parquet"),
    ],
)
def test_bad_input_of_tables(tmp_path, options, error, message):
    given = {"labels": np.full((3, 4), 3), "path": "c.csv", **options}
    with pytest.raises(error, match=message):
        cell_table(given.pop("labels"), tmp_path / given.pop("path"), **given)
    assert os.listdir(tmp_path) == []


def test_a_table_that_is_there_is_refused(tmp_path):
    (tmp_path / "c.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        cell_table(np.ones((2, 2), int), tmp_path / "c.csv")
    assert cell_table(np.ones((2, 2), int), tmp_path / "c.csv", overwrite=True) == 1


# ---- peaks of memory ----------------------------------------------------------------------------

MEMORY_SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from cellpost.slide.output import create_labels
from cellpost.slide.table import cell_table
from cellpost.slide.pyramid import write_ngff

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(s for s in lines if s.startswith(field)).split()[1])

class Cells:
    # 16384 x 16384 pixels, a cell every 32 pixels a side, rendered when read.
    shape, dtype, ndim = (16384, 16384), np.dtype(np.int32), 2
    def __getitem__(self, key):
        y, x = (np.arange(*k.indices(n)) for k, n in zip(key, self.shape))
        inside = (y % 32 < 24)[:, None] & (x % 32 < 24)
        return (((y // 32) * 512)[:, None] + x // 32 + 1).astype(np.int32) * inside

folder, what = Path(sys.argv[1]), sys.argv[2]
def call(labels, at):
    if what == "table":
        return cell_table(labels, at / "c.csv", memory="200MB")
    if what == "ngff":
        return str(write_ngff(labels, at / "c.zarr"))
    with create_labels(at / "c.tif", labels.shape) as out:
        for y in range(0, labels.shape[0], 1024):
            out[y : y + 1024, :] = labels[y : y + 1024, :]

(folder / "small").mkdir()
call(Cells()[:64, :64], folder / "small")  # what a first call loads
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
call(Cells(), folder)
print(json.dumps(resident("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux's /proc"
)
@pytest.mark.parametrize(("what", "limit"), [("table", 270e6), ("ngff", 300e6), ("tiff", 450e6)])
def test_a_gigabyte_of_labels_takes_little_memory(tmp_path, what, limit):
    # The image is 1.07 GB. table: 200 MB and 262,144 cells; ngff: blocks of 4 to 16 MB; tiff: bands
    # of 67 MB, as int32 and as they are rendered.
    if what == "ngff":
        zarr3()
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path), what],
        check=True,
        capture_output=True,
        text=True,
    )
    extra = json.loads(done.stdout.splitlines()[-1])
    assert extra < limit, f"{extra / 1e6:.0f} MB"
    if what == "table":
        assert len((tmp_path / "c.csv").read_text().splitlines()) == 512**2 + 1
