"""Run-length encodings against pycocotools and the loops that competitors use."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellpost import rle, rle_runs

SHAPES = st.one_of(
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9),
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=5),
)
ORDERS = {"order": st.sampled_from(["row", "column"]), "one_based": st.booleans()}


def masks(shapes=SHAPES):
    return hnp.arrays(np.bool_, shapes)


def label_images(shapes=SHAPES, most=4):
    return hnp.arrays(np.int32, shapes, elements=st.integers(0, most))


def kaggle(mask, order, one_based):
    """The loop of the notebooks: first pixel and length of each run of the flat mask."""
    pixels = np.concatenate([[0], mask.ravel("C" if order == "row" else "F"), [0]])
    places = np.flatnonzero(pixels[1:] != pixels[:-1]) + one_based
    places[1::2] -= places[::2]
    return " ".join(str(n) for n in places)


def coco():
    return pytest.importorskip("pycocotools.mask")


def coco_of(mask):
    code = coco().encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"]}


# ---- text of runs -------------------------------------------------------------------------------


def test_sartorius_and_dsb_2018():
    mask = np.array([[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
    assert rle.encode(mask) == "2 2 5 2 12 1"
    assert rle.encode(mask, order="column") == "2 1 4 2 7 1 12 1"
    assert rle.encode(mask, one_based=False) == "1 2 4 2 11 1"


@settings(deadline=None)
@given(mask=masks(), **ORDERS)
def test_a_mask_goes_there_and_back(mask, order, one_based):
    text = rle.encode(mask, order=order, one_based=one_based)
    assert text == kaggle(mask, order, one_based)
    back = rle.decode(text, mask.shape, order=order, one_based=one_based)
    assert (back.dtype, back.flags.c_contiguous) == (np.bool_, True)
    np.testing.assert_array_equal(back, mask)


@settings(deadline=None)
@given(labels=label_images(), **ORDERS)
def test_labels_go_there_and_back(labels, order, one_based):
    texts = rle.encode_labels(labels, order=order, one_based=one_based)
    assert list(texts) == np.unique(labels[labels > 0]).tolist()
    for id_, text in texts.items():
        assert text == kaggle(labels == id_, order, one_based)
    back = rle.decode(texts, labels.shape, order=order, one_based=one_based)
    assert (back.dtype, back.flags.c_contiguous) == (np.int32, True)
    np.testing.assert_array_equal(back, labels)


@pytest.mark.parametrize("order", ["row", "column"])
@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "uint32", "uint64"])
def test_large_ids_with_gaps(order, dtype):
    labels = simulate.blobs((61, 83), 25, seed=1).astype(dtype)
    lift = min(np.iinfo(dtype).max - 30, 2**62)
    labels[labels > 0] += np.array(lift, dtype)
    texts = rle.encode_labels(labels, order=order)
    assert min(texts) > lift
    back = rle.decode(texts, labels.shape, order=order, out_dtype=dtype)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, labels)
    if lift > 2**31:
        with pytest.raises(OverflowError, match="out_dtype: expected a dtype that holds"):
            rle.decode(texts, labels.shape, order=order)


def test_more_than_65535_ids():
    labels = np.random.default_rng(0).permutation(300 * 300).reshape(300, 300)
    for order in ("row", "column"):
        texts = rle.encode_labels(labels, order=order)
        assert len(texts) == 300 * 300 - 1
        np.testing.assert_array_equal(rle.decode(texts, labels.shape, order=order), labels)
    codes = rle.labels_to_coco(labels)
    np.testing.assert_array_equal(rle.from_coco(codes), labels)


def test_every_kind_of_array_is_read(kind):
    labels = simulate.blobs((31, 37), 14, seed=2)
    given = kind.put(labels)
    assert rle.encode_labels(given) == rle.encode_labels(labels)
    assert rle.labels_to_coco(given) == rle.labels_to_coco(labels)
    assert rle.encode(given) == rle.encode(labels > 0)
    assert rle.to_coco(given) == rle.to_coco(labels > 0)


def test_views_are_read_as_they_are():
    labels = simulate.blobs((40, 44), 20, seed=3)
    for view in (labels[::2, 1::3], labels.T, labels[::-1, ::-1], np.asfortranarray(labels)):
        for order in ("row", "column"):
            assert rle.encode_labels(view, order=order) == rle.encode_labels(
                np.ascontiguousarray(view), order=order
            )


def test_lists_are_numbered_and_later_objects_lie_on_top():
    labels = rle.decode(["1 3", "", "3 2"], (1, 5))
    assert labels.tolist() == [[1, 1, 3, 3, 0]]
    assert rle.decode(iter(["3 2", "1 3"]), (1, 5)).tolist() == [[2, 2, 2, 1, 0]]
    assert rle.decode({9: "1 3", 4: "3 2"}, (1, 5)).tolist() == [[9, 9, 4, 4, 0]]


@settings(deadline=None)
@given(st.data())
def test_many_pieces_are_painted_as_by_a_loop(data):
    # more pixels than are painted at a time
    before, rle_runs._PIXELS_AT_ONCE = rle_runs._PIXELS_AT_ONCE, data.draw(st.integers(1, 20))
    try:
        runs = data.draw(
            st.lists(
                st.lists(
                    st.integers(0, 30).flatmap(
                        lambda start: st.tuples(st.just(start), st.integers(0, 30 - start))
                    ),
                    max_size=5,
                )
            )
        )
        expected = np.zeros(30, np.int32)
        for i, of_object in enumerate(runs):
            for start, length in of_object:
                expected[start : start + length] = i + 1
        texts = [" ".join(f"{start} {length}" for start, length in one) for one in runs]
        got = rle.decode(texts, (5, 6), one_based=False)
        np.testing.assert_array_equal(got, expected.reshape(5, 6))
    finally:
        rle_runs._PIXELS_AT_ONCE = before


def test_text_in_any_order_and_spacing():
    mask = rle.decode("  7 2\n1 3 \t 10 0 ", (3, 4))
    assert np.flatnonzero(mask).tolist() == [0, 1, 2, 6, 7]


def test_images_without_objects():
    for shape in [(0, 0), (0, 4), (4, 0), (1, 1), (3, 4), (2, 0, 3)]:
        empty = np.zeros(shape, np.uint8)
        assert rle.encode(empty) == rle.encode(empty, order="column") == ""
        assert rle.encode_labels(empty) == {}
        np.testing.assert_array_equal(rle.decode("", shape), empty)
        for none in ({}, [], [""]):
            back = rle.decode(none, shape, out_dtype="uint8")
            assert back.dtype == np.uint8
            np.testing.assert_array_equal(back, empty)


@pytest.mark.parametrize(
    ("runs", "options", "error", "message"),
    [
        ("1 2 3", {}, ValueError, "runs: expected pairs of start and length; got 3 words"),
        ("1 x", {}, ValueError, "runs: expected whole numbers.*'x'"),
        ("1 2.5", {}, ValueError, "runs: expected whole numbers.*'2.5'"),
        ("1 99999999999999999999", {}, ValueError, "runs: expected whole numbers"),
        ("0 2", {}, ValueError, r"runs: expected runs within pixels 1 to 12 .*got start 0, len"),
        ("12 1", {"one_based": False}, ValueError, "within pixels 0 to 11 .*got start 12"),
        ("12 2", {}, ValueError, r"within pixels 1 to 12 .*\(3, 4\); got start 12, length 2"),
        ("5 -1", {}, ValueError, "got start 5, length -1"),
        ("5 9223372036854775807", {}, ValueError, "got start 5, length 9223372036854775807"),
        (["1 2", "3 4 5"], {}, ValueError, r"runs\[1\]: expected pairs"),
        (["1 2 1 1", "", "3 20"], {}, ValueError, r"runs\[2\]: expected runs within"),
        ({7: "1 2 1 1", 5: "30 2"}, {}, ValueError, r"runs\[5\]: expected runs within"),
        ({0: "1 2"}, {}, ValueError, "runs: expected ids >= 1; got 0"),
        ({"a": "1 2"}, {}, TypeError, "runs: ids: expected an integer; got 'a'"),
        (["1 2", 7], {}, TypeError, r"runs\[1\]: expected a text of runs; got 7"),
        ([float("nan")], {}, TypeError, r"runs\[0\]: expected a text of runs; got nan"),
        (7, {}, TypeError, "runs: expected one object or several; got 7"),
        ("1 2", {"order": "F"}, ValueError, "order: expected 'row' or 'column'; got 'F'"),
        ("1 2", {"shape": (4,)}, ValueError, r"shape: expected 2 or 3 lengths; got \(4,\)"),
        ("1 2", {"shape": 4}, TypeError, "shape: expected several integers; got 4"),
        ("1 2", {"shape": (4, -1)}, ValueError, r"shape: expected lengths >= 0; got \(4, -1\)"),
        ("1 2", {"shape": (4, 2.5)}, TypeError, "shape: expected an integer; got 2.5"),
        (["1 2"], {"out_dtype": float}, TypeError, "out_dtype: expected an integer dtype"),
        (["1 2"], {"out_dtype": "no"}, TypeError, "out_dtype: expected an integer dtype.*'no'"),
        ({300: ""}, {"out_dtype": np.uint8}, OverflowError, "out_dtype: .*up to 300; got uint8"),
    ],
)
def test_bad_text_is_named(runs, options, error, message):
    with pytest.raises(error, match=message):
        rle.decode(runs, **{"shape": (3, 4), **options})


@pytest.mark.parametrize("encode", [rle.encode, rle.to_coco, rle.encode_labels, rle.labels_to_coco])
def test_bad_images_are_named(encode):
    with pytest.raises(TypeError, match=r"expected (an|a bool or) integer dtype; got float64"):
        encode(np.zeros((3, 4)))
    with pytest.raises(TypeError, match=r"expected an array of NumPy.*got list"):
        encode([[1, 2]])
    with pytest.raises(ValueError, match=r"expected 2 axes \(H, W\).*; got \(4,\)"):
        encode(np.zeros(4, int))
    if encode in (rle.to_coco, rle.labels_to_coco):
        with pytest.raises(ValueError, match=r"expected 2 axes \(H, W\); got \(2, 3, 4\)"):
            encode(np.zeros((2, 3, 4), int))
        with pytest.raises(ValueError, match="counts: expected 'bytes', 'str' or 'list'; got 'x'"):
            encode(np.eye(3, dtype=int), counts="x")
    else:
        with pytest.raises(ValueError, match="order: expected 'row' or 'column'; got 'C'"):
            encode(np.eye(3, dtype=int), order="C")
    if encode in (rle.encode_labels, rle.labels_to_coco):
        with pytest.raises(TypeError, match="labels: expected an integer dtype; got bool"):
            encode(np.eye(3, dtype=bool))
        with pytest.raises(ValueError, match="labels: expected ids >= 0; got -1"):
            encode(-np.eye(3, dtype=int))


# ---- COCO ---------------------------------------------------------------------------------------

PLANES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


@pytest.mark.peer
@settings(deadline=None)
@given(masks(PLANES))
def test_masks_are_pycocotools_byte_for_byte(mask):
    theirs = coco_of(mask)
    assert rle.to_coco(mask) == theirs
    assert rle.to_coco(mask, counts="str")["counts"] == theirs["counts"].decode()
    lengths = rle.to_coco(mask, counts="list")
    assert lengths["counts"] == rle.rle_counts(theirs["counts"]).tolist()
    assert json.loads(json.dumps(lengths)) == lengths
    assert coco().frPyObjects(lengths, *mask.shape)["counts"] == theirs["counts"]
    for counts in ("bytes", "str", "list"):
        back = rle.from_coco(rle.to_coco(mask, counts=counts))
        assert (back.dtype, back.flags.c_contiguous) == (np.bool_, True)
        np.testing.assert_array_equal(back, coco().decode(theirs))


@pytest.mark.peer
@settings(deadline=None)
@given(label_images(PLANES))
def test_objects_are_pycocotools_byte_for_byte(labels):
    codes = rle.labels_to_coco(labels)
    assert list(codes) == np.unique(labels[labels > 0]).tolist()
    assert codes == {id_: coco_of(labels == id_) for id_ in codes}
    for counts in ("bytes", "str", "list"):
        codes = rle.labels_to_coco(labels, counts=counts)
        np.testing.assert_array_equal(rle.from_coco(codes, labels.shape), labels)


@pytest.mark.peer
@pytest.mark.parametrize("density", [0.001, 0.3, 0.999])
def test_large_masks_are_pycocotools(density):
    rng = np.random.default_rng(1)
    small = rng.random((3000, 70)) < density
    for mask in (small, small.T, np.repeat(small[:90], 1000, axis=0)):
        assert rle.to_coco(mask) == coco_of(mask)
        np.testing.assert_array_equal(rle.from_coco(coco_of(mask)), mask)


@pytest.mark.peer
def test_real_nuclei_are_pycocotools(nuclei2d):
    codes = rle.labels_to_coco(nuclei2d)
    assert codes == {int(i): coco_of(nuclei2d == i) for i in np.unique(nuclei2d)[1:]}
    np.testing.assert_array_equal(rle.from_coco(codes, out_dtype=nuclei2d.dtype), nuclei2d)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**38), max_size=9), max_size=9))
def test_texts_read_together_are_the_texts_read_one_by_one(numbers):
    lengths = np.array([n for one in numbers for n in one], np.int64)
    stops = np.cumsum([len(one) for one in numbers], dtype=np.int64)
    begins = stops - np.array([len(one) for one in numbers], np.int64)
    code, first, last = rle_runs._compress(lengths, begins, stops)
    texts = [code[i:j] for i, j in zip(first, last, strict=True)]
    assert [rle.rle_counts(text).tolist() for text in texts] == numbers
    together, n = rle_runs._decompress([""] * len(texts), texts)
    assert n.tolist() == [len(one) for one in numbers]
    assert together.tolist() == lengths.tolist()


def test_later_objects_lie_on_top_in_coco_too():
    lower, upper = {"size": [1, 5], "counts": [0, 3, 2]}, {"size": [1, 5], "counts": [2, 2, 1]}
    assert rle.from_coco([lower, upper]).tolist() == [[1, 1, 2, 2, 0]]
    assert rle.from_coco({8: upper, 3: lower}).tolist() == [[3, 3, 3, 8, 0]]
    assert rle.from_coco([lower, rle.to_coco(np.zeros((1, 5), bool))]).tolist() == [[1, 1, 1, 0, 0]]


def test_coco_images_without_objects():
    for shape in [(0, 0), (0, 4), (4, 0), (1, 1), (3, 4)]:
        empty = np.zeros(shape, np.int32)
        code = rle.to_coco(empty, counts="list")
        assert code == {"size": list(shape), "counts": [empty.size]}
        for counts in ("bytes", "list"):
            back = rle.from_coco(rle.to_coco(empty, counts=counts))
            np.testing.assert_array_equal(back, empty)
        assert rle.labels_to_coco(empty) == {}
        for none in ([], {}):
            np.testing.assert_array_equal(rle.from_coco(none, shape), empty)


@pytest.mark.parametrize(
    ("code", "options", "error", "message"),
    [
        ([], {}, ValueError, r"size: expected \(H, W\), since there are no objects"),
        (7, {}, TypeError, "rle: expected one object or several; got 7"),
        ("text", {}, TypeError, r"rle\[0\]: expected a mapping with size and counts; got 't'"),
        ([{"counts": [4]}], {}, TypeError, r"rle\[0\]: expected a mapping with size and counts"),
        ({"counts": [4]}, {}, TypeError, "rle: expected a mapping with size and counts"),
        ({"size": [2, 2], "counts": [3]}, {}, ValueError, r"rle\['counts'\]: .*sum of 2 x 2.*3"),
        ({"size": [2], "counts": [3]}, {}, ValueError, r"rle\['size'\]: expected 2 lengths"),
        ({"size": [2, 2], "counts": [4]}, {"size": (2, 3)}, ValueError, r"expected.*\(2, 3\); got"),
        (
            [{"size": [2, 2], "counts": "4"}, {"size": [1, 4], "counts": "4"}],
            {}, ValueError, r"rle\[1\]\['size'\]: expected the others' \(2, 2\); got \(1, 4\)",
        ),
        (
            [{"size": [2, 2], "counts": "4"}, {"size": [2, 2], "counts": "5"}],
            {}, ValueError, r"rle\[1\]\['counts'\]: expected a sum of 2 x 2 pixels; got 5",
        ),
        (
            [{"size": [2, 2], "counts": "4"}, {"size": [2, 2], "counts": "4~"}],
            {}, ValueError, r"rle\[1\]\['counts'\]: expected characters '0' to 'o'; got b'~'",
        ),
        (
            [{"size": [2, 2], "counts": "4"}, {"size": [2, 2], "counts": "4P"}, {"size": [2, 2],
             "counts": "4"}],
            {}, ValueError, r"rle\[1\]\['counts'\]: expected a whole number at the end; got b'4P'",
        ),
        (
            [{"size": [2, 2], "counts": ""}, {"size": [2, 2], "counts": "P" * 9 + "0"}],
            {}, ValueError, r"rle\[1\]\['counts'\]: expected numbers of 1 to 8 characters; got 10",
        ),
        (
            [{"size": [2, 2], "counts": [4]}, {"size": [2, 2], "counts": [2.5]}],
            {}, TypeError, r"rle\[1\]\['counts'\]: expected text or a list of integers; got float",
        ),
        (
            [{"size": [2, 2], "counts": "4"}, {"size": [2, 2], "counts": "O5"}],
            {}, ValueError, r"rle\[1\]\['counts'\]: expected lengths from 0 to .*; got -1",
        ),
    ],
)  # fmt: skip
def test_bad_coco_is_named(code, options, error, message):
    with pytest.raises(error, match=message):
        rle.from_coco(code, **options)


# ---- cost ---------------------------------------------------------------------------------------


def test_ten_thousand_cells_of_a_large_image_take_no_time():
    # 0.2 to 0.5 s on a 2 GHz core; a mask for each object would take minutes
    side, n = 40, 100
    y, x = np.mgrid[:side, :side] - side // 2
    disc = (y**2 + x**2 < 19**2).astype(np.int32)
    labels = np.kron(np.arange(1, n * n + 1, dtype=np.int32).reshape(n, n), disc)
    start = time.perf_counter()
    texts = rle.encode_labels(labels, order="column")
    codes = rle.labels_to_coco(labels)
    assert time.perf_counter() - start < 10
    start = time.perf_counter()
    from_texts, from_codes = rle.decode(texts, labels.shape, order="column"), rle.from_coco(codes)
    assert time.perf_counter() - start < 10
    np.testing.assert_array_equal(from_texts, labels)
    np.testing.assert_array_equal(from_codes, labels)
