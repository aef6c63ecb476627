"""The engine that runs a network: the one that was asked for, the one that an earlier call used, or the fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from gwapctl.device import used_precision
from gwapctl.engines import AUTO, ENGINES, FROM_IMAGES, LEAST_IMAGES, Choice, check_engine
from gwapctl.engines.base import Engine, Images
from gwapctl.engines.cache import images_hash
from gwapctl.engines.choose import build_engine, choose, known_choice
from gwapctl.networks.classifier import Classifier


class ChosenEngine(Engine):
    """Runs in torch until it is settled what else.

    Args:
        model: what ``networks.inference.for_inference`` returned.
        engine: a name of ``ENGINES``, or ``auto``: ``settle`` measures.
        precision: ``fp32``, ``bf16``, ``int8`` (ranges from images, so ``settle`` makes them), or ``auto``: bf16 where
            the processor has it, and with engine ``auto`` what is faster.

    Attributes:
        choice: the engine and the number format that run.
        unsettled: whether ``settle`` has something to decide.

    Raises:
        UsageError: an unknown name, or an engine that does not compute in ``precision`` or on the device.
        MissingDependencyError: the engine is not installed.
        ModelError: it cannot run the network.

    """

    def __init__(self, model: Classifier, engine: str = "torch", precision: str = AUTO) -> None:
        self._model, self._asked, self._precision = model, engine, precision
        self.choice: Choice
        device = model.scale.device
        check_engine(engine, precision, device.type)
        native = used_precision(AUTO if precision == FROM_IMAGES else precision, device)
        self._run_in(Choice("torch", native))
        self.unsettled = engine == AUTO or precision == FROM_IMAGES
        if not self.unsettled and engine != "torch":
            formats = ENGINES[engine].precisions
            self._run_in(Choice(engine, native if native in formats else formats[0]))

    @property
    def precision(self) -> str:  # type: ignore[override]
        """The number format."""
        return self.choice.precision

    def feature_map(self, images: Tensor) -> Tensor:
        """Map RGB images ``(B, 3, H, W)``, uint8, to the feature map F ``(B, K, h, w)``, float32."""
        return self._engine.feature_map(images)

    def instruction_set(self) -> str:
        """Say what the engine says."""
        return self._engine.instruction_set()

    def settle(
        self,
        count: int,
        size: tuple[int, int],
        batch: Callable[[], Tensor | None],
        calibration: Callable[[], Sequence[Images]],
        recorded: Choice | None = None,
    ) -> str:
        """Decide how the network runs, before the first image, and say it in a line; empty where that was clear.

        Args:
            count: how many images there will be.
            size: width and height of the largest inputs.
            batch: returns images ``(B, 3, H, W)`` to measure on; None where none can be read.
            calibration: returns images ``(1, H, W, 3)`` that set the ranges of ``int8``.
            recorded: how the call ran that this one continues: it binds where nothing else is asked for by name.

        Raises:
            MissingDependencyError: what ``recorded`` names is not installed.
            ModelError: the network cannot be quantized.

        """
        if recorded is not None:
            self._follow(recorded)
        if not self.unsettled:
            return "" if self._asked == "torch" else f"engine {self.choice}"
        self.unsettled = False
        if self._precision == FROM_IMAGES:
            images = calibration()
            if images:
                self._run_in(Choice(self._asked, FROM_IMAGES, images_hash(images)), images)
            return f"engine {self.choice}, ranges from {len(images)} images"
        measured = known_choice(self._model, self._precision, size)
        if measured is None and count >= LEAST_IMAGES and (images_to_time := batch()) is not None:
            measured, self._engine = choose(self._model, self._precision, images_to_time, size)
        elif measured is not None:
            self._run_in(measured.choice)
        if measured is None:
            return f"engine {self.choice} (nothing is measured for fewer than {LEAST_IMAGES} images)"
        self.choice = measured.choice
        return measured.text()

    def _follow(self, recorded: Choice) -> None:
        """Run as ``recorded`` says, unless something else is asked for; a recording of before has no precision."""
        precision = recorded.precision or used_precision(self._precision, self._model.scale.device)
        if self._asked not in (AUTO, recorded.engine) or self._precision not in (AUTO, precision):
            return
        check_engine(recorded.engine, precision, self._model.scale.device.type)
        if precision == FROM_IMAGES:
            self._asked, self._precision, self.unsettled = recorded.engine, precision, True
            return
        self._run_in(replace(recorded, precision=precision))
        self.unsettled = False

    def _run_in(self, choice: Choice, calibration: Sequence[Images] = ()) -> None:
        self._engine = build_engine(choice, self._model, calibration)
        self.choice = choice
