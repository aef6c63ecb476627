"""Which engine, in which number format, is fastest for a network on this machine: measured once and remembered."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from gwapctl.device import has_fast_bf16
from gwapctl.engines import AUTO, ENGINES, FROM_IMAGES, Choice
from gwapctl.engines.base import Engine, Images
from gwapctl.engines.cache import HASH_DIGITS, fingerprint, machine, remember, remembered
from gwapctl.errors import GwapctlError
from gwapctl.networks.classifier import Classifier

SECONDS = 2.0  # for all candidates together, files and compiling aside
PASS_SECONDS = 0.15  # of one pass, so that each candidate gets several
HOPELESS = 3.0  # times as slow as the fastest at one image: not measured further
NOISE = 0.05  # a gain below that is none: what stands further up counts


@dataclass(frozen=True)
class Measured:
    """What was chosen, and how many images per second each candidate did; ``new``: measured just now."""

    choice: Choice
    rates: Mapping[str, float]
    new: bool = True

    def text(self) -> str:
        """Say it in a line."""
        said = ", ".join(f"{name} {rate:.3g}" for name, rate in self.rates.items())
        when = "measured" if self.new else "measured earlier"
        return f"engine {self.choice} ({when}, images/s: {said})"


def candidates(precision: str, device: torch.device) -> list[Choice]:
    """Return what can run here in ``precision``, plain torch first.

    ``auto`` is fp32 and, where the processor computes natively in it, bf16. Nothing is ever quantized unasked.
    """
    formats = ["fp32", *["bf16"] * has_fast_bf16(device)] if precision == AUTO else [precision]
    return [
        Choice(name, one)
        for one in formats
        if one != FROM_IMAGES
        for name, entry in ENGINES.items()
        if one in entry.precisions and entry.installed and (device.type == "cpu" or not entry.packages)
    ]


def build_engine(choice: Choice, model: Classifier, calibration: Sequence[Images] = ()) -> Engine:
    """Return the engine for ``model``, which ``networks.inference.for_inference`` returned."""
    images = {"calibration": calibration} if choice.precision == FROM_IMAGES else {}
    return ENGINES[choice.engine].build(model, choice.precision, **images)


def known_choice(model: Classifier, precision: str, size: tuple[int, int]) -> Measured | None:
    """Return what ``choose`` found earlier on this machine for images of ``size`` (width, height), if it did."""
    document = remembered(_key(model, precision, size))
    try:
        found = Choice(str(document["engine"]), str(document["precision"]))  # type: ignore[index]
        rates = {str(name): float(rate) for name, rate in document["images_per_second"].items()}  # type: ignore[index]
    except (TypeError, KeyError, ValueError, AttributeError):  # nothing is there, or somebody changed it
        return None
    return Measured(found, rates, new=False) if found in candidates(precision, model.scale.device) else None


def choose(model: Classifier, precision: str, images: Tensor, size: tuple[int, int]) -> tuple[Measured, Engine]:
    """Measure all candidates on ``images`` (B, 3, H, W), uint8, remember the fastest for ``size``, and return it.

    A candidate that cannot run this network is left out.
    """
    engines: dict[Choice, Engine] = {}
    for choice in candidates(precision, model.scale.device):
        try:
            engines[choice] = build_engine(choice, model)
        except GwapctlError:
            continue
    measured = fastest(engines, images)
    document = {"engine": measured.choice.engine, "precision": measured.choice.precision}
    remember(_key(model, precision, size), {**document, "images_per_second": dict(measured.rates)})
    return measured, engines[measured.choice]


def fastest(
    engines: Mapping[Choice, Engine], images: Tensor, clock: Callable[[], float] = time.perf_counter
) -> Measured:
    """Measure ``engines`` as they will run, one batch per core at a time, and return the fastest and all rates.

    What gains less than ``NOISE`` over one that stands before it in ``engines`` is not chosen in its place.
    """
    cores = torch.get_num_threads()

    def seconds(engine: Engine, batch: Tensor, pool: ThreadPoolExecutor) -> float:
        start = clock()
        for done in [pool.submit(engine.feature_map, batch) for _ in range(cores)]:
            done.result()
        return (clock() - start) / len(batch)

    times: dict[Choice, float] = {}
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for choice, engine in engines.items():
            pool.submit(engine.feature_map, images[:1]).result()  # compiles
            times[choice] = seconds(engine, images[:1], pool)
        single = min(times.values())
        end = clock() + SECONDS
        left = {choice: engine for choice, engine in engines.items() if times[choice] <= HOPELESS * single}
        rounds: dict[Choice, float] = {}
        while clock() < end:
            for choice, engine in left.items():
                count = max(1, min(len(images), int(PASS_SECONDS / times[choice])))
                rounds[choice] = min(rounds.get(choice, float("inf")), seconds(engine, images[:count], pool))
                if clock() >= end:
                    break
    if len(rounds) == len(left):  # else a pass takes so long that the single images decide
        times |= rounds
    best = min(times[choice] for choice in left)
    chosen = next(choice for choice in left if times[choice] * (1 - NOISE) <= best)
    rates = {str(choice): round(cores / time, 3) for choice, time in times.items()}
    return Measured(chosen, rates)


def _key(model: Classifier, precision: str, size: tuple[int, int]) -> str:
    about = f"{machine()} {fingerprint(model)} {precision} {size[0]}x{size[1]}"
    return hashlib.sha256(about.encode()).hexdigest()[:HASH_DIGITS]
