"""One-to-one pairs of the greatest total score in a sparse graph of overlaps.

Stardist and Cellpose hand a dense matrix of all objects to the Hungarian method. The optimum is the
same if it is looked for in three steps, of which the last has little left to do:

1. A pair that scores at least as much as the best other pair of its one object and the best other
   pair of its other object together is in some optimum: any matching without it can put it in for
   those two. Such pairs are taken, with all others of their objects gone, until there are none.
   Of good segmentations little remains.
2. What remains falls apart into connected components.
3. Each is solved exactly: if the best pairs of all rows, or of all columns, are a matching, it is
   that; dense and small by ``scipy.optimize.linear_sum_assignment``, else by
   ``scipy.sparse.csgraph.min_weight_full_bipartite_matching``, never as a large dense matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

__all__ = ["best_pairs"]

_MOST_DENSE = 2**20  # entries of a dense cost matrix
_MOST_ROUNDS = 100
_Places = NDArray[np.integer[Any]]


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
        Objects of each pair, from 0.
    scores : (n,) float64 ndarray
        In (0, 1].
    wanted : (n,) bool ndarray, optional
        Pairs of which as many as possible are to be chosen, before any score counts.

    Returns
    -------
    (m,) int64 ndarray
        Indices of the chosen pairs, ascending: the most wanted ones, then the greatest sum of all
        chosen scores. Pairs that cannot change which wanted ones are chosen may be missing.
    """
    if wanted is not None and not wanted.any():
        return np.empty(0, np.int64)
    # In steps of 3 the wanted count before the scores of any three pairs.
    ranks = scores if wanted is None else scores + 3.0 * wanted
    n_rows, n_columns = int(rows.max(initial=-1)) + 1, int(columns.max(initial=-1)) + 1
    left = np.arange(len(rows))
    chosen = [np.empty(0, np.int64)]
    for _ in range(_MOST_ROUNDS):
        sure = left[_sure(rows[left], columns[left], ranks[left], n_rows, n_columns)]
        if not len(sure):
            break
        chosen.append(sure)
        row_taken, column_taken = np.zeros(n_rows, bool), np.zeros(n_columns, bool)
        row_taken[rows[sure]] = True
        column_taken[columns[sure]] = True
        left = left[~(row_taken[rows[left]] | column_taken[columns[left]])]
    for part in _components(rows, columns, left):
        if wanted is None or wanted[part].any():
            want = np.zeros(len(part), bool) if wanted is None else wanted[part]
            chosen.append(part[_solved(rows[part], columns[part], scores[part], want)])
    return np.sort(np.concatenate(chosen))


def _sure(
    rows: _Places, columns: _Places, ranks: NDArray[np.float64], n_rows: int, n_columns: int
) -> NDArray[np.int64]:
    """Pairs that are in an optimum whatever the others are; of equal rivals the first."""
    best = np.ones(len(ranks), bool)
    rivals = np.zeros(len(ranks))
    for ends, n in ((rows, n_rows), (columns, n_columns)):
        first = np.zeros(n)
        np.maximum.at(first, ends, ranks)
        is_first = ranks == first[ends]
        second = np.zeros(n)
        np.maximum.at(second, ends[~is_first], ranks[~is_first])
        tied = np.bincount(ends[is_first], minlength=n) > 1
        second[tied] = first[tied]
        best &= is_first
        rivals += second[ends]
    sure = np.flatnonzero(best & (ranks >= rivals))
    for ends in (rows, columns):
        sure = sure[np.sort(np.unique(ends[sure], return_index=True)[1])]
    return sure


def _components(
    rows: _Places, columns: _Places, left: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    if not len(left):
        return []
    _, i = np.unique(rows[left], return_inverse=True)
    _, j = np.unique(columns[left], return_inverse=True)
    n = int(i.max()) + 1
    size = n + int(j.max()) + 1
    graph = coo_array((np.ones(len(left), np.int8), (i, j + n)), shape=(size, size))
    component = connected_components(graph.tocsr(), directed=False)[1][i]
    order = np.argsort(component, kind="stable")
    borders = np.flatnonzero(np.diff(component[order])) + 1
    return np.split(left[order], borders)


def _solved(
    rows: _Places, columns: _Places, scores: NDArray[np.float64], wanted: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Indices of the best pairs of one component."""
    _, i = np.unique(rows, return_inverse=True)
    _, j = np.unique(columns, return_inverse=True)
    n, m = int(i.max()) + 1, int(j.max()) + 1
    gains = scores + wanted * (min(n, m) + 1.0)  # one wanted pair outweighs all scores
    if (simple := _best_of_each(i, j, gains, n, m)) is not None:
        return simple
    if n * m <= _MOST_DENSE:
        dense = np.zeros((n, m))
        dense[i, j] = gains
        row, column = linear_sum_assignment(dense, maximize=True)
    else:
        # Every row may also stay alone, in a column of its own; 1 more for all changes nothing,
        # and keeps weights from being 0, which the solver takes for no edge.
        weights = np.concatenate([gains, np.zeros(n)]) + 1
        at = (np.concatenate([i, np.arange(n)]), np.concatenate([j, m + np.arange(n)]))
        graph = coo_array((weights, at), shape=(n, m + n)).tocsr()
        row, column = min_weight_full_bipartite_matching(graph, maximize=True)
    partner = np.full(n, -1)
    partner[row] = column
    return np.flatnonzero(partner[i] == j)


def _best_of_each(
    i: _Places, j: _Places, gains: NDArray[np.float64], n: int, m: int
) -> NDArray[np.int64] | None:
    """The best pair of each row, or of each column, if these are a matching: no sum is greater."""
    for ends, others, size in ((i, j, n), (j, i, m)):
        best = np.zeros(size)
        np.maximum.at(best, ends, gains)
        at_best = np.flatnonzero(gains == best[ends])
        at_best = at_best[np.unique(ends[at_best], return_index=True)[1]]
        if len(np.unique(others[at_best])) == len(at_best):
            return np.sort(at_best)
    return None
