"""Many processes that train one model: which one this is, its share of the work, and what they tell each other.

``torchrun`` or SLURM's ``srun`` starts them. They do the same things in the same order, each with its share of a batch,
and after every step all of them have the same weights. The first process (rank 0) alone writes files and speaks.

Work that one process does while the others wait (looking at images, filling a cache) may take hours. Therefore whoever
works counts up the store's ``alive`` now and then, and whoever waits gives up after ``time_limit`` seconds without.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import count as counting
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from gwapctl.errors import GwapctlError, UsageError, option
from gwapctl.progress import Progress, ProgressCallback

T = TypeVar("T")

TIME_LIMIT, TIME_LIMIT_VARIABLE = 600, "GWAPCTL_TIME_LIMIT"  # seconds that a process waits for another
BEAT, PAUSE = 5.0, 0.05  # seconds between two signs of life, at least, and between two looks
ALIVE, ERROR = "alive", "error"  # keys of the store


class LostProcessError(GwapctlError):
    """Another process of the training ended, or said nothing for too long."""

    exit_code = 5


def time_limit() -> int:
    """Return how many seconds a process waits for another one: 600, or what ``GWAPCTL_TIME_LIMIT`` says."""
    given = os.environ.get(TIME_LIMIT_VARIABLE) or str(TIME_LIMIT)
    if not given.isdecimal() or int(given) < 1:
        raise UsageError(f"{TIME_LIMIT_VARIABLE} must be a number of seconds, 1 or more, not {given!r}.")
    return int(given)


@dataclass(frozen=True, eq=False)
class Processes:
    """The processes of one training, ``count`` of them, of which this is number ``rank``.

    ``local_rank`` counts those of this machine, ``local_count`` says how many they are. ``store`` is where they leave
    each other notes. ``launch`` tells one start of torchrun, or one job of SLURM, from another; None: neither started
    this process. ``restarted``: it was started again, because a process died.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    store: Any = None  # torch.distributed.Store
    launch: str | None = None
    restarted: bool = False
    _numbers: Iterator[int] = field(default_factory=counting, repr=False)
    _beaten: list[float] = field(default_factory=lambda: [0.0], repr=False)

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return the device of this process where ``name`` was asked for: a GPU of its own where there are GPUs.

        Raises:
            UsageError: one GPU by number, or mps, for several processes.

        """
        if self.count == 1 or name == "cpu":
            return name
        if name not in ("auto", "cuda"):
            raise UsageError(f"{self.count} processes cannot share {name}. Choose {option('device', 'auto', 'cpu')}.")
        there = torch.cuda.device_count()
        if name == "cuda" or there:
            # srun may show each process its own GPU alone
            name = f"cuda:{self.local_rank % max(1, there)}"
        return name

    def require_batch(self, images: int) -> None:
        """Raise ``UsageError`` where a batch of ``images`` has none for some process."""
        if images < self.count:
            raise UsageError(
                f"{self.count} processes share batches of {images}: some would have no image. "
                f"Use {option('batch_size', self.count)} or more, or start fewer processes."
            )

    # ------------------------------------------------------------------------------------------- shares of the work

    def bounds(self, number: int, rank: int | None = None) -> slice:
        """Return which of ``number`` things are those of this process, or of another: consecutive, none twice.

        >>> [Processes(rank, 3).bounds(8) for rank in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
        """
        rank = self.rank if rank is None else rank
        return slice(rank * number // self.count, (rank + 1) * number // self.count)

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """Return those of ``items`` that are this process's."""
        return items if self.count == 1 else items[self.bounds(len(items))]

    def seed(self, *numbers: int) -> None:
        """Seed torch with these numbers and with which process this is, where it is not the only one.

        What one draws (what dropout drops), another does not.
        """
        if self.count > 1:
            torch.manual_seed(int(np.random.SeedSequence([*numbers, self.rank]).generate_state(1)[0]))

    # ------------------------------------------------------------------------------- numbers, all in the same order

    def gather(self, own: Tensor, *numbers: int) -> Tensor:
        """Put the rows of all processes together, block by block of these ``numbers``: ``own`` are this one's parts.

        A loss of what is returned is the whole batch's. Its gradient reaches the own rows alone, and that ``count``
        times, for ``DistributedDataParallel`` takes the mean over processes where the sum is wanted.
        """
        if self.count == 1:
            return own
        blocks = torch.split(own, [len(range(number)[self.bounds(number)]) for number in numbers])
        return torch.cat([self._gather(block, number) for block, number in zip(blocks, numbers, strict=True)])

    def _gather(self, own: Tensor, number: int) -> Tensor:
        if number == 0:
            return own
        sizes = [len(range(number)[self.bounds(number, rank)]) for rank in range(self.count)]
        sent = own.new_zeros(max(sizes), *own.shape[1:])
        sent[: len(own)] = own.detach()
        received = [torch.empty_like(sent) for _ in sizes]
        dist.all_gather(received, sent)
        rows = [part[:size] for part, size in zip(received, sizes, strict=True)]
        rows[self.rank] = _times(own, self.count)
        return torch.cat(rows)

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Return the sum over processes of each of ``numbers``."""
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the mean over processes of each value; names and their order are everywhere the same."""
        if self.count == 1:
            return dict(values)
        sums = self.total(list(values.values()))
        return {name: number / self.count for name, number in zip(values, sums, strict=True)}

    def largest(self, numbers: Sequence[float]) -> list[float]:
        """Return the maximum over processes of each of ``numbers``."""
        return self._reduced(numbers, dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Tell whether ``flag`` is set in some process: what one is told to do, all do."""
        return bool(self.largest([float(flag)])[0])

    def _reduced(self, numbers: Sequence[float], operation: Any) -> list[float]:
        if self.count == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(values, operation)
        return values.tolist()

    def collect(self, own: Iterable[T]) -> Iterable[T]:
        """Return the items of all processes, those of the first one first; of one process they are not waited for."""
        if self.count == 1:
            return own
        found: list[list[T]] = [[] for _ in range(self.count)]
        dist.all_gather_object(found, list(own))
        return [item for part in found for item in part]

    def around(self, own: Sequence[T]) -> tuple[list[T], list[T]]:
        """Return the items of the processes in front of this one, and of those behind it."""
        found: list[list[T]] = [[] for _ in range(self.count)]
        dist.all_gather_object(found, list(own))
        before, behind = found[: self.rank], found[self.rank + 1 :]
        return [item for part in before for item in part], [item for part in behind for item in part]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor of floating point numbers by its mean over processes."""
        chosen = [tensor for tensor in tensors if tensor.is_floating_point()]
        if self.count == 1 or not chosen:
            return
        flat = torch.cat([tensor.flatten() for tensor in chosen])
        dist.all_reduce(flat)
        means = torch.split(flat.div_(self.count), [tensor.numel() for tensor in chosen])
        for tensor, mean in zip(chosen, means, strict=True):
            tensor.copy_(mean.view_as(tensor))

    # ----------------------------------------------------------------------------------------- one after the other

    def on_first(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns in the first process; the others wait for it and get a copy.

        Raises:
            LostProcessError: ``make`` failed there, or nothing was heard for too long.

        """
        if self.count == 1:
            return make()
        value: list[T | None] = [None]
        with self.in_turn() as own_turn:
            if own_turn:
                value[0] = make()
        with self.lost_ones():
            dist.broadcast_object_list(value, src=0, device=torch.device("cpu"))
        return value[0]  # type: ignore[return-value]

    @contextmanager
    def in_turn(self) -> Iterator[bool]:
        """Let the first process go ahead, and the others follow when it is through; tell whether this is the first."""
        key = f"turn {next(self._numbers)}"
        if not self.first:
            self._wait(key)
        with self._told(key) if self.first and self.store is not None else nullcontext():
            yield self.first

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait behind the block until every process is through."""
        key = f"together {next(self._numbers)}"
        with self._told(f"{key}/{self.rank}") if self.store is not None else nullcontext():
            yield
        for rank in range(self.count if self.store is not None else 0):
            self._wait(f"{key}/{rank}")

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Leave a note of how the block ended."""
        try:
            yield
        except BaseException:
            self.store.set(key, "failed")
            raise
        self.store.set(key, "done")

    def _wait(self, key: str) -> None:
        """Wait for a note, as long as there are signs of life."""
        limit = time_limit()
        seen, since = -1, time.monotonic()
        while not self._there(key, PAUSE):
            if self.store.check([ERROR]):
                raise LostProcessError("the first process failed.")
            beat = self.store.add(ALIVE, 0)
            if beat != seen:
                seen, since = beat, time.monotonic()
            if time.monotonic() - since > limit:
                raise LostProcessError(f"the other processes said nothing for {limit} s ({TIME_LIMIT_VARIABLE}).")
        if self.store.get(key) != b"done":
            raise LostProcessError("another process failed.")

    def _there(self, key: str, seconds: float) -> bool:
        """Wait some seconds for a note; tell whether it came."""
        end = time.monotonic() + seconds  # not by the store's own wait, which writes warnings to the terminal
        try:
            while not self.store.check([key]):
                if time.monotonic() > end:
                    return False
                time.sleep(PAUSE)
        except dist.DistError as error:
            raise LostProcessError("the first process is gone.") from error
        return True

    def beating(self, callback: ProgressCallback | None) -> ProgressCallback:
        """Return a ``callback`` that also gives signs of life."""

        def heard(done: Progress) -> None:
            if self.store is not None and time.monotonic() - self._beaten[0] > BEAT:
                self._beaten[0] = time.monotonic()
                self.store.add(ALIVE, 1)
            if callback is not None:
                callback(done)

        return heard

    # ------------------------------------------------------------------------------------------------------- errors

    def spoken(self, message: str) -> str | None:
        """Return what this process says of its error: nothing where the first one has said what is wrong.

        The others wait a little for it, for they often fail of the same, or because it did.
        """
        if self.store is None:
            return message
        with suppress(dist.DistError, LostProcessError):  # the store may be gone
            if self.first:
                self.store.set(ERROR, message)
                time.sleep(4 * PAUSE)  # it may go with this process: the others look before
            elif self._there(ERROR, 10.0):
                return None
        return message if self.first else f"process {self.rank} of {self.count}: {message}"

    @contextmanager
    def lost_ones(self) -> Iterator[None]:
        """Turn what torch raises where another process is gone into ``LostProcessError``."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
                raise
            reason = str(error).splitlines()[0].rpartition("] ")[2]
            raise LostProcessError(
                f"another process ended, or said nothing for {time_limit()} s ({TIME_LIMIT_VARIABLE}): {reason} "
                f"Start all of them again with {option('resume', True)}."
            ) from error

    def leave(self) -> None:
        """End the connection to the others; nothing is said to them any more."""
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()


ALONE = Processes()


def _times(own: Tensor, factor: int) -> Tensor:
    """Return ``own`` with a gradient that is ``factor`` times as large."""
    same = own.view_as(own)
    if same.requires_grad:
        same.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
    return same
