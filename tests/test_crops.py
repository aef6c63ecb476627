"""Ten crops as CAM's released code makes them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from gwapctl.boxes import iou
from gwapctl.maps.crops import cut, paste, warped_size
from gwapctl.maps.localizer import Localizer
from gwapctl.maps.reading import MapReading
from gwapctl.networks.transforms import resize
from gwapctl.regions import map_to_boxes, parse_box_rule
from tests.factories import make_classifier, make_images


def test_windows_are_those_of_the_released_code() -> None:
    assert warped_size((224, 224)) == (256, 256)
    assert warped_size((64, 96)) == (73, 110)  # in proportion
    columns, rows = np.meshgrid(np.arange(256), np.arange(256))
    views = cut(np.dstack([columns, rows]), (224, 224))
    assert [view.shape for view in views] == [(224, 224, 2)] * 10
    # MATLAB's indices 1 and 33, and 17 for the centre, are 0, 32 and 16 here
    assert [view[0, 0].tolist() for view in views[:5]] == [[0, 0], [32, 0], [0, 32], [32, 32], [16, 16]]
    for plain, mirrored in zip(views[:5], views[5:], strict=True):
        np.testing.assert_array_equal(mirrored, plain[:, ::-1])


def test_absolute_values_add_up_where_windows_overlap() -> None:
    size = (28, 21)
    width, height = warped_size(size)
    assert (width, height) == (32, 24)
    ones = -np.ones((10, 1, 3, 4), np.float32)
    (counts,) = paste(ones, size)
    assert counts.shape == (24, 32)
    assert counts[0, 0] == counts[-1, -1] == 2  # one window and its mirror image
    assert counts[12, 16] == 10
    assert counts.sum() == 10 * 28 * 21


def reference(model: object, image: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean probabilities and the map on the warped image, one window at a time."""
    warped = resize(image, (73, 73))
    total, probabilities = np.zeros((73, 73), np.float64), []
    for y, x in ((0, 0), (0, 9), (9, 0), (9, 9), (4, 4)):
        for mirrored in (False, True):
            window = warped[y : y + 64, x : x + 64]
            view = torch.from_numpy(np.ascontiguousarray(window[:, ::-1] if mirrored else window)).permute(2, 0, 1)
            with torch.no_grad():
                features = model.feature_map(view[None])
                probabilities.append(torch.softmax(model.head(features).logits, 1)[0].numpy())
                cam = torch.einsum("k,khw->hw", model.head.classifier.weight[label], features[0]).numpy()
            stretched = cv2.resize(cam, (64, 64), interpolation=cv2.INTER_LINEAR)
            total[y : y + 64, x : x + 64] += np.abs(stretched[:, ::-1] if mirrored else stretched)
    return np.mean(probabilities, axis=0), total


@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_class_and_map_are_those_of_ten_windows(batch_size: int) -> None:
    model, images = make_classifier("gap"), make_images((120, 80), (50, 70), (73, 73))
    localizer = Localizer(model, MapReading(method="class", crops="ten"), batch_size=batch_size)
    assert (localizer.reading.scales, localizer.values) == ((64,), "minmax")
    for image, result in zip(images, localizer.run(images, [(1,)] * 3, top_k=0), strict=True):
        probabilities, total = reference(model, image, 1)
        np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-5)
        expected = cv2.resize(total.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(result.heatmap(0), expected, rtol=2e-3, atol=2e-3 * expected.max())
    best = localizer.run(images)
    assert [result.classes[0] for result in best] == [int(reference(model, image, 0)[0].argmax()) for image in images]


def test_saliency_of_ten_windows_adds_up() -> None:
    model, (image,) = make_classifier("gap"), make_images((120, 80))
    warped, total = resize(image, (73, 73)), np.zeros((73, 73), np.float32)
    for y, x in ((0, 0), (0, 9), (9, 0), (9, 9), (4, 4)):
        for step in (1, -1):
            window = np.ascontiguousarray(warped[y : y + 64, x : x + 64][:, ::step])
            view = torch.from_numpy(window).permute(2, 0, 1)[None].float().requires_grad_()
            model(view).logits[0, 2].backward()
            total[y : y + 64, x : x + 64] += view.grad.abs().amax(1)[0].numpy()[:, ::step]
    localizer = Localizer(model, MapReading(method="backprop", crops="ten"))
    (result,) = localizer.run([image], [(2,)], top_k=0)
    expected = cv2.resize(total, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(result.heatmap(0), expected, atol=1e-3 * expected.max())
    cut_out = Localizer(model, MapReading(method="backprop", crops="ten", backprop_seg="grabcut"))
    (mask,) = cut_out.run([image], [(2,)], top_k=0)
    assert set(np.unique(mask.heatmap(0))) <= {0, 1}
    assert cut_out.values == "minmax_mean"


@pytest.mark.parametrize("method", ["weight", "fused", "dgl", "backprop"])
def test_every_map_goes_through_ten_windows(method: str) -> None:
    model, images = make_classifier(input_size=(96, 64)), make_images((120, 80), (50, 70))
    localizer = Localizer(model, MapReading(method=method, crops="ten"))
    for image, result in zip(images, localizer.run(images, top_k=2), strict=True):
        assert result.heatmaps.shape == (1 if method == "weight" else 2, *image.shape[:2])
        assert localizer.values == "minmax"
        assert result.heatmap(0).min() >= 0
        assert result.heatmaps.max() == 1  # whatever the map's own values are
        box = map_to_boxes(result.heatmap(0), parse_box_rule("cam-released"))[0].box
        assert 0 < iou(box, [0, 0, image.shape[1], image.shape[0]])[0, 0] <= 1
