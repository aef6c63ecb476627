"""A model of ours as CVAT's auto-annotation function, held against the SDK's own interface where it is installed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gwapctl.errors import MissingDependencyError
from gwapctl.formats import cvat_function
from gwapctl.networks.classifier import save_model
from gwapctl.predict.classifier import load_model
from tests.factories import make_classifier, make_images


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(make_classifier(), tmp_path / "model")
    return tmp_path / "model"


def test_without_the_sdk_the_message_says_what_to_install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvat_sdk", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'gwapctl\[cvat\]'"):
        cvat_function.create(model=str(model))


class Context:
    """What CVAT tells a function of a frame."""

    frame_name = "a.jpg"
    conv_mask_to_poly = False

    def __init__(self, conf_threshold: float | None = None) -> None:
        self.conf_threshold = conf_threshold


def test_cvat_accepts_the_spec_and_the_boxes(model: Path) -> None:
    pytest.importorskip("cvat_sdk", reason="cvat-sdk is not installed: pip install 'gwapctl[cvat]'")
    import cvat_sdk.auto_annotation as sdk
    from cvat_sdk.auto_annotation.driver import _AnnotationMapper

    (pixels,) = make_images((80, 60))
    function: Any = cvat_function.create(model=str(model), top_k=2)
    expected = load_model(model).localize(pixels, top_k=2)[0]
    assert isinstance(function.spec, sdk.DetectionFunctionSpec)
    assert [label.name for label in function.spec.labels] == list(load_model(model).classes)
    found = function.detect(Context(), Image.fromarray(pixels))
    assert len(found) == 2
    np.testing.assert_allclose([shape.points for shape in found], expected.boxes)
    np.testing.assert_allclose([shape.score for shape in found], expected.scores)
    assert {shape.type.value for shape in found} == {"rectangle"}
    best = float(expected.scores.max())
    assert len(function.detect(Context(best), Image.fromarray(pixels))) == 1
    assert function.detect(Context(1.0), Image.fromarray(pixels)) == []
    # the driver's own check, with the task's numbers of the same labels
    server: dict[str, Any] = {"type": "any", "attributes": [], "sublabels": []}
    labels = [sdk.label_spec(label.name, label.id + 40, **server) for label in function.spec.labels]
    mapper = _AnnotationMapper(
        logging.getLogger("cvat"), function.spec.labels, labels, allow_unmatched_labels=False, conv_mask_to_poly=False
    )
    mapper.validate_and_remap(found, 5)
    assert {shape.frame for shape in found} == {5}
    assert {shape.label_id for shape in found} <= {label.id for label in labels}


def test_cvat_cli_loads_the_module_with_its_parameters(model: Path) -> None:
    pytest.importorskip("cvat_cli", reason="cvat-cli is not installed")
    from cvat_cli._internal.common import FunctionLoader

    loader = FunctionLoader("gwapctl.formats.cvat_function", None, {"model": str(model), "min_score": 0.25})
    assert isinstance(loader.load(), cvat_function.CvatFunction)
