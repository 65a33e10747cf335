"""Reading, the network and putting away, each on a thread of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

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
    read, put = _on_callers_streams(read), _on_callers_streams(put)
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


def _on_callers_streams(call: Callable[[Item], Output]) -> Callable[[Item], Output]:
    """Run a function of any thread on the CUDA devices and streams of this one.

    These are a thread's own in PyTorch and CuPy: elsewhere work would not wait for this thread's.
    """
    places: list[Any] = []
    torch, cupy = (sys.modules.get(name) for name in ("torch", "cupy"))
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        stream = torch.cuda.current_stream()
        places.append(lambda: torch.cuda.stream(stream))
    if cupy is not None and cupy.cuda.is_available():
        device, of_cupy = cupy.cuda.Device(), cupy.cuda.get_current_stream()
        places += [lambda: device, lambda: of_cupy]
    if not places:
        return call

    def there(item: Item) -> Output:
        with ExitStack() as stack:
            for place in places:
                stack.enter_context(place())
            return call(item)

    return there
