"""One-to-one pairs of the greatest total score in a sparse graph of overlaps.

Stardist and Cellpose hand a dense matrix of all objects to the Hungarian method. This is the same
method on the pairs that there are: shortest augmenting paths, with a price for every object such
that no pair scores more than the prices of its two objects. Pairs that score just that are tight.

1. Each row's price is its best score, and it gets a column of that score, if other rows leave it
   one: of good segmentations little remains.
2. From each row without a column, Dijkstra's search goes along other columns and the rows that have
   them, to the nearest place where it may end: a free column, or a row that is left alone. Its
   length is what the total loses against the prices; they change where the search has been, which
   makes its path tight, and the path's rows move on by one column.

A search looks at the neighbourhood alone, and stops at the nearest end. Scores are integers here,
so that prices stay exact: what is tight once does not get lost by rounding.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_of_rows", "best_pairs"]

_GAIN_BITS = 61  # sums of two stay within int64
_MOST_ROUNDS = 8  # of handing out best columns; what they leave is searched for
_Places = NDArray[np.integer[Any]]


def best_of_rows(rows: _Places, scores: NDArray[Any]) -> NDArray[np.int64]:
    """Index of the best pair of each row, of equal ones the first; rows ascend."""
    if not len(rows):
        return np.empty(0, np.int64)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    best = np.maximum.reduceat(scores, starts)
    at_best = np.flatnonzero(scores == np.repeat(best, np.diff(starts, append=len(rows))))
    return at_best[np.flatnonzero(np.diff(rows[at_best], prepend=-1))]


def best_pairs(
    rows: _Places,
    columns: _Places,
    scores: NDArray[np.float64],
    wanted: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Choose pairs, each row and column at most once.

    Parameters
    ----------
    rows, columns : (n,) integer ndarray
        Objects of each pair, from 0; rows ascend, and no pair is there twice.
    scores : (n,) float64 ndarray
        In (0, 1].
    wanted : (n,) bool ndarray, optional
        Pairs of which as many as possible are to be chosen, before any score counts.

    Returns
    -------
    (m,) int64 ndarray
        Indices of the chosen pairs, ascending: the most wanted ones, then the greatest sum of all
        chosen scores.

    Notes
    -----
    Scores count in steps of about 1e-18 times the rows or columns, whichever are fewer. Which of
    several best choices is made is open.
    """
    n_rows, n_columns = int(rows.max(initial=-1)) + 1, int(columns.max(initial=-1)) + 1
    gains = _gains(scores, wanted, min(n_rows, n_columns))
    row_prices = np.zeros(n_rows, np.int64)
    np.maximum.at(row_prices, rows, gains)
    pair_of_row = np.full(n_rows, -1, np.int32)
    row_of_column = np.full(n_columns, -1, np.int32)
    tight = np.flatnonzero(gains == row_prices[rows])
    for _ in range(_MOST_ROUNDS):
        taken = _first_of_each(rows, _first_of_each(columns, tight, n_columns), n_rows)
        pair_of_row[rows[taken]] = taken
        row_of_column[columns[taken]] = rows[taken]
        tight = tight[(pair_of_row[rows[tight]] < 0) & (row_of_column[columns[tight]] < 0)]
    del tight
    _augment(rows, columns, gains, row_prices, pair_of_row, row_of_column)
    return pair_of_row[pair_of_row >= 0].astype(np.int64)


def _gains(
    scores: NDArray[np.float64], wanted: NDArray[np.bool_] | None, most: int
) -> NDArray[np.int64]:
    """Scores as integers; a wanted pair outweighs the scores of `most` pairs."""
    most = most if wanted is not None else 0
    one = 2.0 ** (_GAIN_BITS - (most + 2).bit_length())
    scaled = scores * one
    gains = np.rint(scaled, out=scaled).astype(np.int64)
    if wanted is not None:
        gains[wanted] += (most + 1) * int(one)
    return gains


def _first_of_each(ends: _Places, pairs: _Places, n: int) -> NDArray[np.int32]:
    """Of the pairs of each row, or column, the first."""
    first = np.full(n, -1, np.int32)
    first[ends[pairs[::-1]]] = pairs[::-1]  # the last one written stays
    return first[first >= 0]


def _starts(rows: _Places, n_rows: int) -> NDArray[np.int64]:
    """Where each row's pairs start, and where the last one's end; rows ascend."""
    starts = np.zeros(n_rows + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=n_rows), out=starts[1:])
    return starts


def _augment(
    rows: _Places,
    columns: _Places,
    gains: NDArray[np.int64],
    row_prices: NDArray[np.int64],
    pair_of_row: NDArray[np.int32],
    row_of_column: NDArray[np.int32],
) -> None:
    """Make the matching an optimal one, in place.

    No gain may be above its row's price, and matched pairs' gains are equal to it.
    """
    free = np.flatnonzero((pair_of_row < 0) & (row_prices > 0)).tolist()
    if not free:
        return
    starts = _starts(rows, len(row_prices))
    column_prices = np.zeros(len(row_of_column), np.int64)
    start, row_at, column_at, gain, row_price, column_price, pair_of, row_of = map(
        _items,
        (starts, rows, columns, gains, row_prices, column_prices, pair_of_row, row_of_column),
    )
    for row in free:
        length, last = row_price[row], -1  # of the best path so far: this row is left alone
        reached: dict[
            int, tuple[int, int]
        ] = {}  # a column's distance, and the pair that leads to it
        waiting: list[tuple[int, int]] = []  # the same columns, nearest first
        been = [(0, row, -1)]  # distance, row, and the column that it has
        for distance, at, _ in been:
            ahead = distance + row_price[at]
            for pair in range(start[at], start[at + 1]):
                column = column_at[pair]
                there = ahead + column_price[column] - gain[pair]
                if there >= length or (column in reached and there >= reached[column][0]):
                    continue
                reached[column] = there, pair
                if row_of[column] < 0:
                    length, last = there, pair
                else:
                    heappush(waiting, (there, column))
            while waiting:
                distance, column = heappop(waiting)
                known, pair = reached[column]
                if known < distance:  # a shorter way was found since
                    continue
                if distance < length:
                    at = row_of[column]
                    been.append((distance, at, column))
                    if distance + row_price[at] < length:  # that one is left alone
                        length, last = distance + row_price[at], pair
                break
        for distance, at, column in been:
            if distance < length:
                row_price[at] -= length - distance
                if column >= 0:
                    column_price[column] += length - distance
        if last >= 0 and (loser := row_of[column_at[last]]) >= 0:
            pair_of[loser] = -1
        while last >= 0:
            at, column = row_at[last], column_at[last]
            before, pair_of[at], row_of[column] = pair_of[at], last, at
            last = reached[column_at[before]][1] if before >= 0 else -1


def _items(array: Any) -> memoryview[int]:
    """The array itself, with items that are plain integers: much faster to get than NumPy's."""
    return memoryview(array)
