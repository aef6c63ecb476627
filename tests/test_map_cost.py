"""What maps cost: counted bytes against bytes counted by hand, and the order that map methods must have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from map_cost import measure_cost, peak_memory, reading_of, store, table
from torch import nn

from gwapctl.maps.localizer import Localizer
from gwapctl.maps.reading import MapReading
from gwapctl.runs import Run
from tests.factories import make_small_classifier

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


def localizer(head: str, method: str) -> Localizer:
    return Localizer(
        make_small_classifier(head, ("a", "b"), input_size=(48, 32)), MapReading(method), device="cpu", batch_size=2
    )


def test_gradients_cost_memory_and_maps_of_the_forward_pass_do_not() -> None:
    readers = {method: localizer("gap", method) for method in ("class", "backprop")}
    found = measure_cost(readers, 3, 2)
    assert all(numbers["images_per_second"] > 0 for numbers in found.values())
    input_bytes = 3 * 48 * 32 * 4 / 2**20
    assert found["class"]["extra_memory_mib"] < input_bytes
    assert found["backprop"]["extra_memory_mib"] > 3 * input_bytes
    again = measure_cost(readers, 3, 1)
    assert again["backprop"]["extra_memory_mib"] == found["backprop"]["extra_memory_mib"]  # of the work alone
    lines = table(found).splitlines()
    assert [line.split()[0] for line in lines] == ["map", "class", "backprop"]
    assert lines[1].split()[2] == "1.00"


def test_a_head_that_sees_boxes_gets_them() -> None:
    found = measure_cost({"class": localizer("gwap-gt", "class")}, 2, 1)
    assert set(found["class"]) == {"images_per_second", "memory_mib", "extra_memory_mib"}


def test_the_cost_is_stored_where_tables_find_it(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    common = {"dataset": "d", "split": "val", "protocol": "paper"}
    for method, scales, layer in (
        ("class", [64], []),
        ("class", [64, 96], []),
        ("dgl", [64], []),
        ("dgl", [64], ["a", "b"]),
    ):
        options = {"map": method, "scales": scales, **({"layer": layer} if layer else {})}
        run.save_evaluation({**common, "options": options, "metrics": {"px_ap": 1.0}})
    cost = {"class": {"images_per_second": 9.0, "memory_mib": 5.0, "extra_memory_mib": 2.0}}
    cost["dgl@a+b"] = {**cost["class"], "images_per_second": 3.0}
    assert store(run, cost, {"batch_size": 8}) == 2
    stored = {
        (document["options"]["map"], *document["options"]["scales"], *document["options"].get("layer", ())): document[
            "metrics"
        ]
        for document in run.evaluations()
    }
    assert stored["dgl", 64, "a", "b"]["images_per_second"] == 3
    assert reading_of("dgl@a+b") == MapReading("dgl", layer=["a", "b"])
    assert reading_of("dgl") == MapReading("dgl")
    assert stored["class", 64] == {"px_ap": 1.0, "images_per_second": 9.0, "extra_memory_mib": 2.0}
    assert stored["class", 64, 96] == stored["dgl", 64] == {"px_ap": 1.0}


def test_the_option_that_measured_it_before_names_the_script(run_cli: Callable[..., Any]) -> None:
    done = run_cli("evaluate", "runs/a", "--timing")
    assert done.code == 2
    assert "benchmarks/map_cost.py" in done.stderr
    assert len(done.stderr.splitlines()) == 1
