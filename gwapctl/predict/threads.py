"""Work on many images with all cores and flat memory: chunks in threads, results in order.

Every thread decodes, resizes, runs the network and finds boxes for its own chunk with one core. That keeps all cores
busy without any hand-over between stages, and beats one network spread over the cores: OpenCV and torch release the
interpreter, and a core that shares nothing waits for nobody. On a GPU the other threads decode while one computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import TypeVar

import cv2

from gwapctl.predict.shards import Part

T = TypeVar("T")
R = TypeVar("R")


def in_threads(
    work: Callable[[list[T]], list[R]], items: Iterable[T], *, chunk: int, workers: int | None = None
) -> Iterator[R]:
    """Yield the results of ``work`` on chunks of at most ``chunk`` items, in the order of the items.

    ``workers`` threads (None: as many as torch uses; 0: none, everything in the calling thread) each take a chunk; at
    most two chunks per thread are held at any time, however many items there are. Few items are spread over all
    threads. The chunks of a ``Part`` are those of the whole that it is a part of.
    """
    import torch  # evaluating maps from disk imports this module, and needs no torch

    cores = torch.get_num_threads()
    if workers == 0:
        for part in _chunks(iter(items), chunk):
            yield from work(part)
        return
    workers = workers or cores
    stream = iter(items)
    first = list(islice(stream, workers * chunk))
    total = len(items.items) if isinstance(items, Part) else len(first)
    chunk = chunk_size(total, chunk, workers)
    threads = max(1, min(workers, -(-total // chunk)))
    with _cores_per_thread(max(1, cores // threads)) as start, ThreadPoolExecutor(threads, initializer=start) as pool:
        waiting: deque[Future[list[R]]] = deque()
        try:
            for part in _chunks(chain(first, stream), chunk):
                waiting.append(pool.submit(work, part))
                if len(waiting) >= 2 * threads:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def chunk_size(total: int, chunk: int, workers: int | None) -> int:
    """Return how many of ``total`` items ``in_threads`` works on at once, where at most ``chunk`` can be."""
    import torch

    if workers == 0:
        return chunk
    return max(1, min(chunk, -(-total // (workers or torch.get_num_threads()))))


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while part := list(islice(items, size)):
        yield part


@contextmanager
def _cores_per_thread(cores: int) -> Iterator[Callable[[], None]]:
    """Yield what each new thread calls first, so that torch has ``cores`` cores in it and OpenCV one; undo it after."""
    import torch

    torch_before, cv2_before = torch.get_num_threads(), cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield lambda: torch.set_num_threads(cores)
    finally:
        torch.set_num_threads(torch_before)
        cv2.setNumThreads(cv2_before)
