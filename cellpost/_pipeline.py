"""Reading, the network and putting away, each on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["pipelined"]

Item = TypeVar("Item")
Output = TypeVar("Output")


def pipelined(
    n: int,
    read: Callable[[int], Item],
    work: Callable[[int, Item], Output],
    put: Callable[[Output], None],
) -> Iterator[int]:
    """Read the next item and put the last one away while one is worked on, in the caller's thread.

    Yields how many of the `n` are put away. What any of the three raises ends it, once no thread
    runs any more.
    """
    if n == 0:
        return
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(read, 0)
        behind: Future[None] | None = None
        for k in range(n):
            item = ahead.result()
            if k + 1 < n:
                ahead = pool.submit(read, k + 1)
            output = work(k, item)
            if behind is not None:
                behind.result()
                yield k
            behind = pool.submit(put, output)
            del item, output  # no more of them are held than are needed
        assert behind is not None
        behind.result()
        yield n
