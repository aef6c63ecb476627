"""The loop and a task of a few lines: what it asks of a task, in which order, and what it writes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gwapctl.train.loop as loop
from gwapctl.config import DetectorConfig, RunConfig, TrainConfig
from gwapctl.datasets.base import Sample
from gwapctl.errors import ModelError
from gwapctl.runs import Run
from gwapctl.train.data import TrainData
from gwapctl.train.schedule import parameter_groups
from gwapctl.train.task import Listener, Resources, Task
from tests.factories import stop_after


class ToyConfig(RunConfig):
    backbone: str = "line"


class ToyTask(Task[Tensor, Tensor]):
    """One weight w, pulled to the number of the batch: loss (w - n)^2."""

    asked: list[str]

    def __init__(self, config: RunConfig, data: TrainData, resources: Resources) -> None:
        super().__init__(config, data, resources)
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.keep, self.total, self.row_every, self.per_epoch = "best", 5, 2, 2
        self.images_per_step, self.one_size = 1, True

    @staticmethod
    def load_data(config: Any, root: Path | None, check: Callable[[TrainData], TrainData]) -> TrainData:
        names = SimpleNamespace(name="toy", root=Path(), classes=(), warnings=lambda: ["toys break"])
        return TrainData(names, [Sample("a", Path("a"), (0,))], [Sample("b", Path("b"), (0,))], "train", "val")  # type: ignore[arg-type]

    def parameter_groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.model.parameters(), self.config)

    def batches(self, iteration: int) -> Iterator[Tensor]:
        start, stop = iteration * self.config.accumulate, self.total * self.config.accumulate
        return iter([torch.tensor(float(number)) for number in range(start, stop)])

    def begin_step(self, iteration: int) -> None:
        self.model.train()

    def forward(self, batch: Tensor) -> Tensor:
        output: Tensor = self.model(torch.ones(1, 1)) - batch
        return output

    def loss(self, output: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        return output.square().sum(), {"distance": output.abs().sum(), "iteration_seen": torch.tensor(float(iteration))}

    def validate(self) -> dict[str, float]:
        return {"weight": self.model.weight.item()}  # type: ignore[operator,union-attr]

    def select(self, scores: dict[str, float], best: dict[str, Any]) -> dict[str, Any] | None:
        return scores if -1 < scores["weight"] < 1 else None

    def save(self, folder: Path) -> None:
        (folder / "weight.txt").write_text(str(self.validate()["weight"]))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyConfig:
    monkeypatch.setitem(loop.TASKS, ToyConfig, ToyTask)
    monkeypatch.setattr("gwapctl.train.check.unreadable_images", lambda *_, **__: {})
    monkeypatch.setattr("gwapctl.train.checkpoint.stored_config", lambda values: ToyConfig(**values))
    return ToyConfig(
        dataset="toy", accumulate=2, lr=0.25, momentum=0.0, weight_decay=0.0, schedule="constant", precision="fp32"
    )


def weights_by_hand() -> list[float]:
    """Return w after each step w - lr * d/dw mean((w - 2i)^2, (w - 2i - 1)^2), lr = 1/4."""
    w, found = 0.0, []
    for i in range(5):
        w -= 0.25 * 2 * (w - (2 * i + 0.5))
        found.append(w)
    return found


def test_every_type_of_settings_has_its_task() -> None:
    assert set(loop.TASKS) == {TrainConfig, DetectorConfig}
    assert len(inspect.signature(loop.train).parameters) <= 10


def test_a_toy_task_is_trained_like_any_other(toy: ToyConfig, tmp_path: Path) -> None:
    said: list[str] = []
    run = loop.train(toy, tmp_path, device="cpu", workers=0, listener=Listener(warn=said.append))
    w = weights_by_hand()
    rows = run.history()
    assert [(row["iteration"], row["epoch"]) for row in rows] == [(2, 1.0), (4, 2.0), (5, 2.5)]
    assert [row["val_weight"] for row in rows] == pytest.approx([w[1], w[3], w[4]])
    # the last row is of one iteration of two batches, 8 and 9
    assert rows[2]["loss"] == pytest.approx(((w[3] - 8) ** 2 + (w[3] - 9) ** 2) / 2)
    assert rows[2]["distance"] == pytest.approx((abs(w[3] - 8) + abs(w[3] - 9)) / 2)
    assert rows[2]["iteration_seen"] == 4
    assert list(rows[2])[:3] == ["iteration", "epoch", "loss"]
    assert said == ["toys break"]
    assert run.document["status"] == "finished"
    assert run.document["best"] == {}
    assert not (tmp_path / "weight.txt").exists()  # none was chosen: 1.375 is the first that was judged


def test_what_is_chosen_is_saved_at_once(toy: ToyConfig, tmp_path: Path) -> None:
    run = loop.train(toy.model_copy(update={"lr": 0.05}), tmp_path, device="cpu", workers=0)
    judged = [row["val_weight"] for row in run.history()]
    assert judged[0] < 1 < judged[1]
    assert run.document["best"] == {"iteration": 2, "weight": judged[0]}
    assert float((tmp_path / "weight.txt").read_text()) == judged[0]


@pytest.mark.parametrize("stop", [1, 3])
def test_a_toy_task_resumes_where_it_was(toy: ToyConfig, tmp_path: Path, stop: int) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = loop.train(toy, tmp_path / "whole", device="cpu", workers=0)
    with pytest.raises(KeyboardInterrupt):
        loop.train(toy, tmp_path / "parts", device="cpu", workers=0, listener=Listener(progress=stop_after(stop)))
    stopped = Run.open(tmp_path / "parts").document
    assert (stopped["status"], stopped["iterations"]) == ("interrupted", stop)
    parts = loop.train(toy, tmp_path / "parts", device="cpu", workers=0, resume=True)
    assert [row["val_weight"] for row in parts.history()] == [row["val_weight"] for row in whole.history()]
    assert parts.history()[-1]["val_weight"] == pytest.approx(weights_by_hand()[-1])
    assert not (tmp_path / "parts" / "state.pt").exists()


def test_a_loss_that_is_lost_stops_the_run(toy: ToyConfig, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the loss became (inf|nan) at iteration 2\. Lower lr="):
        loop.train(toy.model_copy(update={"lr": 1e30}), tmp_path / "run", device="cpu", workers=0)
    assert not (tmp_path / "run").exists()  # there is nothing to resume
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    with pytest.raises(ModelError, match="the loss became"):
        loop.train(toy.model_copy(update={"lr": 1e30}), tmp_path / "used", device="cpu", workers=0)
    assert Run.open(tmp_path / "used").document["status"] == "failed"
    assert (tmp_path / "used" / "notes.txt").is_file()
