"""What maps cost: counted bytes against bytes counted by hand, and the order that map methods must have."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from gwapctl.datasets.base import BoxedSample, ClassName
from gwapctl.evaluate.cost import measure_cost
from gwapctl.maps.localizer import Localizer
from gwapctl.maps.memory import peak_memory
from gwapctl.maps.reading import MapReading
from gwapctl.networks.classifier import ModelInfo, build_classifier

CPU = torch.device("cpu")


def test_bytes_alive_at_once() -> None:
    x = torch.zeros(3, 5, 7)

    def work() -> None:
        first = x + 1
        second = first.view(15, 7) + 1  # a view costs nothing
        del first
        second += 1  # neither does work in place
        (second * 2).sum()

    assert peak_memory(work, CPU) == 2 * x.nbytes + 4  # and the sum
    assert peak_memory(lambda: None, CPU) == 0


def test_a_graph_keeps_what_a_plain_pass_frees() -> None:
    network = nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1) for _ in range(5)]).requires_grad_(False)
    x = torch.randn(2, 4, 12, 20)

    def with_gradient() -> None:
        image = x.clone().requires_grad_()
        torch.autograd.grad(network(image).square().sum(), image)

    with torch.inference_mode():
        plain = peak_memory(lambda: network(x), CPU)
    graph = peak_memory(with_gradient, CPU)
    assert plain is not None
    assert graph is not None
    assert plain == 2 * x.nbytes
    assert graph >= 6 * x.nbytes


def test_memory_that_nobody_counts_is_not_known() -> None:
    assert peak_memory(lambda: None, torch.device("meta")) is None


@pytest.fixture
def samples(tmp_path: Path) -> list[BoxedSample]:
    rng = np.random.default_rng(0)
    found = []
    for index in range(3):
        path = tmp_path / f"{index}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (40, 56, 3), dtype=np.uint8))
        box = np.array([[3.0, 4.0, 30.0, 33.0]])
        found.append(
            BoxedSample(path.name, path, (0,), boxes=box, box_labels=np.zeros(1, int), difficult=np.zeros(1, bool))
        )
    return found


def localizer(head: str, method: str) -> Localizer:
    torch.manual_seed(0)
    info = ModelInfo(
        backbone="resnet-s",
        head=head,
        classes=(ClassName("a", "a"), ClassName("b", "b")),
        multi_label=False,
        input_size=(48, 32),
        train_sizes=(32, 48),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
    )
    return Localizer(build_classifier(info), MapReading(method=method), device="cpu", batch_size=2)


def test_gradients_cost_memory_and_maps_of_the_forward_pass_do_not(samples: list[BoxedSample]) -> None:
    found = {method: measure_cost(localizer("gap", method), samples) for method in ("class", "backprop")}
    for metrics, how in found.values():
        assert metrics["images_per_second"] > 0
        assert how["images"] == 3
        assert how["batch_size"] == 2
        assert how["device"] == "cpu"
    input_bytes = 3 * 48 * 32 * 4 / 2**20
    assert found["class"][0]["extra_memory_mib"] < input_bytes
    assert found["backprop"][0]["extra_memory_mib"] > 3 * input_bytes
    again, _ = measure_cost(localizer("gap", "backprop"), samples)
    assert again["extra_memory_mib"] == found["backprop"][0]["extra_memory_mib"]  # of the work, not of the machine


def test_a_head_that_sees_boxes_gets_them(samples: list[BoxedSample]) -> None:
    metrics, _ = measure_cost(localizer("gwap-gt", "class"), samples)
    assert set(metrics) == {"images_per_second", "extra_memory_mib"}
