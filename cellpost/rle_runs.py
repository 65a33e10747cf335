"""Runs of equal pixels, between images, text and COCO's counts: the work under `cellpost.rle`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from cellpost._arrays import _INTEGER_DTYPES, Array, Arrays, check_fits, dtype_name, to_host
from cellpost.labels import integer

Order: TypeAlias = Literal["row", "column"]
Form: TypeAlias = Literal["bytes", "str", "list"]
T = TypeVar("T")

_PIXELS_AT_ONCE = 1 << 20


# ---- from pixels to runs ------------------------------------------------------------------------


def host_image(
    name: str, array: Array, *, or_bool: bool = False, axes: tuple[int, ...] = (2, 3)
) -> NDArray[Any]:
    """The array on the CPU, of a fitting dtype and number of axes."""
    pixels = Arrays(**{name: array})[name]
    dtype, shape = dtype_name(pixels), tuple(pixels.shape)
    if dtype not in _INTEGER_DTYPES and not (or_bool and dtype == "bool"):
        expected = "a bool or integer dtype" if or_bool else "an integer dtype"
        raise TypeError(f"{name}: expected {expected}; got {dtype}")
    if len(shape) not in axes:
        expected = " or ".join({2: "2 axes (H, W)", 3: "3 axes (D, H, W)"}[n] for n in axes)
        raise ValueError(f"{name}: expected {expected}; got {shape}")
    host: NDArray[Any] = to_host(pixels)
    return host


def runs_of(
    image: NDArray[Any], order: Order
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Starts, lengths and values of the runs of equal pixels that are not 0."""
    lines = image.T if _by_column(order) else image  # its rows are what the runs go along
    if not lines.size:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, image.dtype)
    # Laid out as the image is in memory: columns are compared at the speed of rows.
    changes = np.empty_like(lines, np.bool_)
    np.not_equal(lines[..., 1:], lines[..., :-1], out=changes[..., 1:])
    firsts, lasts = lines[..., 0].ravel(), lines[..., -1].ravel()
    changes[..., 0] = np.append(True, firsts[1:] != lasts[:-1]).reshape(lines.shape[:-1])
    starts = np.flatnonzero(changes)
    values = lines[np.unravel_index(starts, lines.shape)]
    lengths = np.diff(starts, append=lines.size)
    inside = values != 0
    return starts[inside], lengths[inside], values[inside]


def object_runs(
    labels: NDArray[Any], order: Order
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int], list[int]]:
    """Runs sorted by object, the objects' ids, and where each one's runs begin, and the end."""
    starts, lengths, values = runs_of(labels, order)
    if values.size and values.min() < 0:
        raise ValueError(f"labels: expected ids >= 0; got {values.min()}")
    by_id = np.argsort(values, kind="stable")
    ids, first = np.unique(values[by_id], return_index=True)
    return starts[by_id], lengths[by_id], ids.tolist(), [*first.tolist(), len(values)]


def _by_column(order: Order) -> bool:
    if order not in ("row", "column"):
        raise ValueError(f"order: expected 'row' or 'column'; got {order!r}")
    return order == "column"


def runs_text(starts: NDArray[np.int64], lengths: NDArray[np.int64], edges: list[int]) -> list[str]:
    """The text of each object, whose runs are `starts[edges[i]:edges[i + 1]]`."""
    numbers = list(map(str, np.stack([starts, lengths], axis=1).ravel().tolist()))
    return [" ".join(numbers[2 * begin : 2 * end]) for begin, end in pairwise(edges)]


def coco_dicts(
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    edges: list[int],
    shape: tuple[int, ...],
    form: Form,
) -> list[dict[str, Any]]:
    """COCO's dict of each object, whose runs are `starts[edges[i]:edges[i + 1]]`."""
    if form not in ("bytes", "str", "list"):
        raise ValueError(f"counts: expected 'bytes', 'str' or 'list'; got {form!r}")
    height, width = shape
    n_pixels = height * width
    # Of each object: gap, run, gap, run ..., and the gap to the end, which is left out if empty.
    bounds = np.asarray(edges)
    n_runs = np.diff(bounds)
    ends = starts + lengths
    last_end = np.zeros(len(n_runs), np.int64)
    last_end[n_runs > 0] = ends[bounds[1:][n_runs > 0] - 1]
    has_rest = (last_end < n_pixels) | (n_runs == 0)
    stops = np.cumsum(2 * n_runs + has_rest)
    begins = stops - 2 * n_runs - has_rest
    gaps = starts.copy()
    gaps[1:] -= ends[:-1]
    gaps[bounds[:-1][n_runs > 0]] = starts[bounds[:-1][n_runs > 0]]
    counts = np.empty(stops[-1] if len(stops) else 0, np.int64)
    at = np.repeat(begins - 2 * bounds[:-1], n_runs) + 2 * np.arange(len(starts))
    counts[at], counts[at + 1] = gaps, lengths
    counts[stops[has_rest] - 1] = (n_pixels - last_end)[has_rest]
    parts: list[Any]
    if form == "list":
        parts = _cut(counts.tolist(), begins, stops)
    else:
        code, begins, stops = _compress(counts, begins, stops)
        parts = _cut(code, begins, stops) if form == "bytes" else _cut(code.decode(), begins, stops)
    return [{"size": [height, width], "counts": part} for part in parts]


def _cut(whole: Any, begins: NDArray[np.int64], stops: NDArray[np.int64]) -> list[Any]:
    return [whole[i:j] for i, j in zip(begins.tolist(), stops.tolist(), strict=True)]


def _compress(
    counts: NDArray[np.int64], begins: NDArray[np.int64], stops: NDArray[np.int64]
) -> tuple[bytes, NDArray[np.int64], NDArray[np.int64]]:
    """Text of all objects' counts, and where each one's begins and stops: see `_decompress`."""
    numbers = counts.copy()
    numbers[2:] -= counts[:-2]
    for i in range(3):
        few = begins[stops - begins > i] + i
        numbers[few] = counts[few]
    n_codes = np.ones(len(numbers), np.int64)
    signed = numbers ^ (numbers >> 63)  # as many bits as the number needs, but for the sign's
    while (more := signed >> (5 * n_codes - 1) > 0).any():
        n_codes += more
    after = np.cumsum(n_codes)
    code = np.empty(after[-1] if len(after) else 0, np.uint8)
    at, left, n_left = after - n_codes, numbers, n_codes
    while len(at):
        more = n_left > 1
        code[at] = (left & 0x1F) + 0x20 * more + 48
        at, left, n_left = at[more] + 1, left[more] >> 5, n_left[more] - 1
    edges = np.concatenate([[0], after])
    return code.tobytes(), edges[begins], edges[stops]


# ---- from runs to pixels ------------------------------------------------------------------------


def named_objects(
    name: str, given: Iterable[T] | Mapping[int, T]
) -> tuple[list[str], list[T], list[int]]:
    """How errors call each object, the object, its id."""
    if isinstance(given, Mapping):
        ids = [integer(f"{name}: ids", key) for key in given]
        if ids and min(ids) < 1:
            raise ValueError(f"{name}: expected ids >= 1; got {min(ids)}")
        return [f"{name}[{key!r}]" for key in given], list(given.values()), ids
    try:
        objects = list(given)
    except TypeError:
        raise TypeError(f"{name}: expected one object or several; got {given!r:.80}") from None
    return [f"{name}[{i}]" for i in range(len(objects))], objects, list(range(1, len(objects) + 1))


def _integer_dtype(out_dtype: Any) -> np.dtype[Any]:
    try:
        dtype = np.dtype(np.int32 if out_dtype is None else out_dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.name not in _INTEGER_DTYPES:
        raise TypeError(f"out_dtype: expected an integer dtype of NumPy; got {out_dtype!r}")
    return dtype


def read_runs(
    names: list[str], texts: list[str], shape: tuple[int, ...], first: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Starts (from 0) and lengths of the runs of all texts, and how many each one has."""
    parts = []
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str):
            raise TypeError(f"{name}: expected a text of runs; got {text!r:.80}")
        words = text.split()
        if len(words) % 2:
            raise ValueError(f"{name}: expected pairs of start and length; got {len(words)} words")
        parts.append(words)
    n_runs = np.array([len(words) // 2 for words in parts], np.int64)
    try:
        numbers = np.array([int(word) for words in parts for word in words], np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"runs: expected whole numbers of up to 64 bits; got {error}") from None
    starts, lengths = numbers[::2] - first, numbers[1::2]
    n_pixels = math.prod(shape)
    wrong = (starts < 0) | (lengths < 0) | (lengths > n_pixels) | (starts > n_pixels - lengths)
    if wrong.any():
        i = int(np.argmax(wrong))
        name = names[int(np.searchsorted(np.cumsum(n_runs), i, side="right"))]
        raise ValueError(
            f"{name}: expected runs within pixels {first} to {n_pixels - 1 + first} of an image of "
            f"shape {shape}; got start {numbers[2 * i]}, length {lengths[i]}"
        )
    return starts, lengths, n_runs


def counts_of(name: str, counts: Any) -> NDArray[np.int64]:
    """Lengths of the runs of a mask in COCO's encoding, or an error that names them."""
    if isinstance(counts, str | bytes):
        lengths, _ = _decompress([name], [counts])
    else:
        try:
            lengths = np.asarray(counts)
        except ValueError:
            raise TypeError(
                f"{name}: expected text or a list of integers; got nested lists"
            ) from None
        if lengths.size == 0:
            lengths = np.empty(0, np.int64)
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
            got = f"{lengths.dtype} of shape {lengths.shape}"
            raise TypeError(f"{name}: expected text or a list of integers; got {got}")
    lengths = lengths.astype(np.int64, copy=False)  # huge unsigned ones become negative
    if lengths.size and lengths.min() < 0:
        raise ValueError(f"{name}: expected lengths from 0 to 2**63 - 1; got {lengths.min()}")
    return lengths


def coco_runs(
    names: list[str], counts: list[Any], size: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Starts and lengths of the objects' runs, none empty, and how many each object has."""
    height, width = size
    if all(isinstance(code, str | bytes) for code in counts):
        lengths, n_lengths = _decompress(names, counts)
    else:
        parts = [counts_of(name, code) for name, code in zip(names, counts, strict=True)]
        lengths = np.concatenate(parts)
        n_lengths = np.array([len(part) for part in parts], np.int64)
    n_pixels = height * width
    stops = np.cumsum(n_lengths)
    begins = stops - n_lengths
    sums = np.append(0, np.cumsum(lengths))
    # Each length is compared too, since a sum of huge ones could wrap around to the right total.
    wrong = sums[stops] - sums[begins] != n_pixels
    n_bad = np.append(0, np.cumsum((lengths < 0) | (lengths > n_pixels)))
    wrong |= n_bad[stops] > n_bad[begins]
    if wrong.any():
        i = int(np.argmax(wrong))
        total = sum(counts_of(names[i], lengths[begins[i] : stops[i]]).tolist())
        raise ValueError(f"{names[i]}: expected a sum of {height} x {width} pixels; got {total}")
    ends = sums[1:] - np.repeat(sums[begins], n_lengths)
    of_object = (np.arange(len(lengths)) - np.repeat(begins, n_lengths)) % 2 == 1
    some = of_object & (lengths > 0)
    n_runs = np.append(0, np.cumsum(some))
    return (ends - lengths)[some], lengths[some], n_runs[stops] - n_runs[begins]


def _decompress(
    names: list[str], texts: list[str | bytes]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of all texts, and how many each has: 5 bits a character from 0x30 on, least first.

    0x20 says that more follow; from the fourth number on each is the difference to the one two
    before.
    """
    raws = [text.encode("utf-8") if isinstance(text, str) else text for text in texts]
    edges = np.append(0, np.cumsum([len(raw) for raw in raws], dtype=np.int64))
    codes = np.frombuffer(b"".join(raws), np.uint8).astype(np.int64) - 48

    def of(place: Any) -> int:
        return int(np.searchsorted(edges, place, side="right")) - 1

    if codes.size and (codes.min() < 0 or codes.max() > 63):
        place = int(np.argmax((codes < 0) | (codes > 63)))
        i = of(place)
        got = raws[i][place - edges[i] :][:1]
        raise ValueError(f"{names[i]}: expected characters '0' to 'o'; got {got!r}")
    is_last = codes < 0x20
    filled = np.flatnonzero(np.diff(edges))
    unfinished = filled[~is_last[edges[1:][filled] - 1]]
    if unfinished.size:
        i = int(unfinished[0])
        raise ValueError(f"{names[i]}: expected a whole number at the end; got {raws[i][-8:]!r}")
    last = np.flatnonzero(is_last)
    n_codes = np.diff(last, prepend=-1)
    if n_codes.max(initial=0) > 8:
        name = names[of(last[np.argmax(n_codes > 8)])]
        raise ValueError(f"{name}: expected numbers of 1 to 8 characters; got {n_codes.max()}")
    first = last - n_codes + 1
    places = np.arange(codes.size) - np.repeat(first, n_codes)
    sums = np.append(0, np.cumsum((codes & 0x1F) << (5 * places)))
    numbers = sums[last + 1] - sums[first]
    numbers -= ((codes[last] & 0x10) >> 4) << (5 * n_codes)  # two's complement
    found = np.append(0, np.cumsum(is_last))
    n_numbers = np.diff(found[edges])
    # Two columns, each object from a new row on: differences are added up down the columns, all
    # but an object's first number, which nothing refers to.
    n_rows = (n_numbers + 1) // 2
    begins = np.cumsum(n_rows) - n_rows
    table = np.zeros((int(n_rows.sum()) + 1, 2), np.int64)
    at = np.arange(len(numbers)) + np.repeat(2 * begins - found[edges[:-1]], n_numbers) + 2
    table.flat[at] = numbers
    heads = begins[n_rows > 0] + 1
    firsts = table[heads, 0]
    table[heads, 0] = 0
    table = np.cumsum(table, axis=0)
    table[1:] -= np.repeat(table[begins], n_rows, axis=0)
    table[heads, 0] = firsts
    return table.ravel()[at], n_numbers


def painted(
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    n_runs: NDArray[np.int64],
    ids: list[int] | None,
    shape: tuple[int, ...],
    order: Order,
    out_dtype: Any,
) -> NDArray[Any]:
    """The mask (without ids), or the label image, of runs that are drawn one after the other."""
    by_column = _by_column(order)
    if ids is None:
        pixels, values = np.zeros(math.prod(shape), np.bool_), np.ones(len(starts), np.bool_)
    else:
        dtype = _integer_dtype(out_dtype)
        check_fits(max(ids, default=0), dtype.name)
        pixels = np.zeros(math.prod(shape), dtype)
        values = np.repeat(np.array(ids, dtype), n_runs)
    # A few runs at a time: the places of all pixels would take eight bytes each.
    totals = np.cumsum(lengths)
    begin = 0
    while begin < len(starts):
        before = int(totals[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(totals, before + _PIXELS_AT_ONCE, side="right")))
        some = slice(begin, end)
        # Pixel k of a run before which j pixels are drawn: place (start - j) + (j + k).
        at = np.repeat(starts[some] - (totals[some] - lengths[some] - before), lengths[some])
        at += np.arange(len(at))
        pixels[at] = np.repeat(values[some], lengths[some])
        begin = end
    if by_column:
        return np.ascontiguousarray(pixels.reshape(shape[::-1]).T)
    return pixels.reshape(shape)
