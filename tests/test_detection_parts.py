"""The detector's parts, against slow references and by what must be identical."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from gwapctl.networks.rfcn.base import BoxTarget
from gwapctl.networks.rfcn.losses import CODER, HARDEST, hardest, label_regions, region_losses, total_loss
from gwapctl.networks.rfcn.proposals import Anchors, Proposals
from gwapctl.networks.rfcn.rfcn import RegionVotes, pool_votes
from gwapctl.networks.rfcn.weak import WeakBranch, boxes_to_cells, image_loss, region_loss

STRIDE = 8


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def boxes_in(count: int, height: int, width: int, generator: np.random.Generator) -> Tensor:
    """Draw boxes of every size inside an image; some reach its right and bottom edge."""
    x, y = generator.uniform(0, width - 1, (count, 2)), generator.uniform(0, height - 1, (count, 2))
    x.sort(axis=1)
    y.sort(axis=1)
    x[::4, 1], y[::3, 1] = width, height
    return torch.tensor(np.stack([x[:, 0], y[:, 0], x[:, 1] + 0.5, y[:, 1] + 0.5], axis=1), dtype=torch.float32)


def target_of(boxes: list[list[float]], labels: list[int], difficult: list[bool] | None = None) -> BoxTarget:
    flags = torch.tensor(difficult or [False] * len(labels))
    return BoxTarget(torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64), flags)


# --- proposals ---


def test_anchors_stand_in_the_middle_of_their_cells() -> None:
    (anchors,) = Anchors((10, 30), STRIDE)(_Images(1), [torch.zeros(1, 1, 2, 3)])
    anchors = anchors.reshape(2, 3, 6, 4)  # rows, columns, sides x ratios
    middle = (anchors[..., :2] + anchors[..., 2:]) / 2
    for row, column in ((0, 0), (0, 2), (1, 1)):
        expected = torch.tensor([(column + 0.5) * STRIDE, (row + 0.5) * STRIDE]).expand(6, 2)
        torch.testing.assert_close(middle[row, column], expected)
    width, height = (anchors[0, 0, :, 2:] - anchors[0, 0, :, :2]).unbind(1)
    torch.testing.assert_close(width * height, torch.tensor([100.0] * 3 + [900.0] * 3))
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0] * 2))


def test_proposals_are_where_the_head_says() -> None:
    """One cell is an object for one anchor: the first proposal is that anchor."""
    proposals = Proposals(4, 6, (16.0, 32.0), STRIDE, scale=0.1).eval()
    conv4 = torch.zeros(1, 4, 5, 7)
    conv4[0, :, 3, 4] = 1
    head = proposals.network.head
    with torch.no_grad():
        for layer in (head.conv, head.objectness, head.offsets):
            layer.weight.zero_()
        head.conv.weight[:, :, 1, 1] = 1
        head.objectness.weight[1] = 1  # side 16, ratio 1
        (boxes,), losses = proposals(conv4, [(40, 56)])
    assert boxes[0].tolist() == [4.5 * 8 - 8, 3.5 * 8 - 8, 4.5 * 8 + 8, 3.5 * 8 + 8]
    assert losses == {}


def test_at_most_300_proposals_of_a_least_size_inside_the_image() -> None:
    proposals = Proposals(4, 6, (16.0, 32.0, 64.0), STRIDE, scale=0.5).eval()
    for parameter in proposals.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    boxes, _ = proposals(torch.randn(2, 4, 20, 33), [(160, 264), (149, 203)])
    for found, (height, width) in zip(boxes, [(160, 264), (149, 203)], strict=True):
        assert 50 < len(found) <= 300
        assert not found.requires_grad
        assert (found[:, :2] >= 0).all()
        assert (found[:, 2] <= width).all()
        assert (found[:, 3] <= height).all()
        assert ((found[:, 2:] - found[:, :2]) >= 8).all()  # 16 pixels at half the paper's size


class _Images:
    def __init__(self, count: int) -> None:
        self.image_sizes = [(16, 24)] * count


# --- position-sensitive pooling ---


def slow_votes(maps: np.ndarray, box: list[float], k: int) -> list[float]:
    """Pool one region as R-FCN's section 3 writes it, with edges rounded to cells and an exclusive end."""
    depth, (height, width) = len(maps) // (k * k), maps.shape[1:]
    x0, y0, x1, y1 = (math.floor(edge / STRIDE + 0.5) for edge in box)
    columns, rows = max(x1 - x0, 1), max(y1 - y0, 1)
    votes = []
    for d in range(depth):
        total = 0.0
        for i in range(k):
            for j in range(k):
                ys = range(math.floor(i * rows / k) + y0, math.ceil((i + 1) * rows / k) + y0)
                xs = range(math.floor(j * columns / k) + x0, math.ceil((j + 1) * columns / k) + x0)
                cells = [maps[(d * k + i) * k + j, y, x] for y in ys for x in xs if 0 <= y < height and 0 <= x < width]
                total += sum(cells) / len(cells) if cells else 0.0
        votes.append(total / (k * k))
    return votes


@pytest.mark.parametrize("k", [2, 3, 7])
def test_pooling_equals_the_paper_s_formula(k: int) -> None:
    generator = np.random.default_rng(k)
    height, width, depth = 9, 14, 3
    maps = torch.randn(2, depth * k * k, height, width)
    regions = [boxes_in(13, height * STRIDE, width * STRIDE, generator) for _ in range(2)]
    votes = pool_votes(maps, regions, k, STRIDE, "ps_roi_pool")
    expected = [
        slow_votes(image.double().numpy(), box, k)
        for image, boxes in zip(maps, regions, strict=True)
        for box in boxes.tolist()
    ]
    torch.testing.assert_close(votes, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["ps_roi_pool", "ps_roi_align"])
def test_every_bin_votes_with_a_map_of_its_own(pooling: str) -> None:
    """Maps that are constant: the vote is their mean, also at the last row and column."""
    k, depth = 3, 2
    values = torch.randn(depth * k * k)
    maps = values[None, :, None, None].expand(1, -1, 11, 8)
    regions = [torch.tensor([[0.0, 0, 64, 88], [24, 32, 64, 88], [8, 8, 40, 40]])]
    votes = pool_votes(maps, regions, k, STRIDE, pooling)
    torch.testing.assert_close(votes, values.reshape(depth, -1).mean(1).expand(3, -1))


def test_votes_are_float32_and_differentiable_under_autocast() -> None:
    votes = RegionVotes(6, 4, 3, STRIDE, "ps_roi_pool")
    features = torch.randn(1, 6, 5, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, offsets = votes(features, [torch.tensor([[3.0, 5, 40, 38]])])
    assert (scores.dtype, offsets.dtype) == (torch.float32, torch.float32)
    assert (scores.shape, offsets.shape) == ((1, 5), (1, 4))
    (scores.sum() + offsets.sum()).backward()
    assert votes.maps.weight.grad is not None
    assert votes.maps.weight.grad.abs().sum() > 0


# --- losses of the regions ---


def test_regions_take_the_object_they_overlap_most() -> None:
    target = target_of([[0, 0, 10, 10], [0, 0, 10, 20]], [2, 0])
    regions = torch.tensor([[0.0, 0, 10, 11], [0, 0, 10, 19], [0, 0, 10, 5], [0, 0, 10, 4.9], [50, 50, 60, 60]])
    labels, matched = label_regions(regions, target)
    assert labels.tolist() == [3, 1, 3, 0, 0]  # an IoU of exactly 0.5 is enough
    assert matched[:3].tolist() == target.boxes[[0, 1, 0]].tolist()
    assert matched[3:].tolist() == regions[3:].tolist()


def test_without_objects_everything_is_background() -> None:
    labels, matched = label_regions(torch.rand(3, 4), target_of([], []))
    assert labels.tolist() == [0, 0, 0]
    assert matched.shape == (3, 4)


def test_hardest_are_the_largest() -> None:
    losses = torch.randperm(200).float()
    assert sorted(losses[hardest(losses, 128)].tolist()) == list(range(72, 200))
    assert len(hardest(losses[:5], 128)) == 5


def test_only_the_hardest_regions_of_each_image_learn() -> None:
    generator = np.random.default_rng(2)
    targets = [target_of([[10, 10, 60, 70], [50, 20, 120, 90]], [1, 0]), target_of([[5, 8, 90, 80]], [2])]
    regions = [
        torch.cat([boxes_in(200, 100, 130, generator), boxes + 2])
        for boxes in (targets[0].boxes.repeat(20, 1), targets[1].boxes.repeat(10, 1))
    ]
    total = sum(map(len, regions))
    scores, offsets = torch.randn(total, 4, requires_grad=True), torch.randn(total, 4, requires_grad=True)
    losses = region_losses(scores, offsets, regions, targets)
    (losses["roi_class"] + losses["roi_box"]).backward()
    assert scores.grad is not None
    start = 0
    class_sum = box_sum = 0.0
    for boxes, target in zip(regions, targets, strict=True):
        each = []
        for row, box in enumerate(boxes, start):
            overlap, nearest = box_iou(box[None], target.boxes)[0].max(0)
            label = int(target.labels[nearest]) + 1 if overlap >= 0.5 else 0
            class_loss = float(-torch.log_softmax(scores[row].detach(), 0)[label])
            wanted = CODER.encode_single(target.boxes[nearest][None], box[None])[0]
            box_loss = (
                float(functional.smooth_l1_loss(offsets[row].detach(), wanted, reduction="sum")) if label else 0.0
            )
            each.append((class_loss + box_loss, class_loss, box_loss, row))
        chosen = sorted(each, reverse=True)[:HARDEST]
        learning = scores.grad[start : start + len(boxes)].abs().sum(1) > 0
        assert {row for *_, row in chosen} == set((learning.nonzero()[:, 0] + start).tolist())
        class_sum += sum(item[1] for item in chosen)
        box_sum += sum(item[2] for item in chosen)
        start += len(boxes)
    assert losses["roi_class"].item() == pytest.approx(class_sum / 256, rel=1e-5)
    assert losses["roi_box"].item() == pytest.approx(box_sum / 256, rel=1e-5)


def test_total_loss_weighs_the_weak_branch() -> None:
    losses = {"rpn_box": torch.tensor(1.0), "roi_box": torch.tensor(2.0), "weak_image": torch.tensor(30.0)}
    assert total_loss(losses).item() == pytest.approx(6.0)
    assert total_loss(losses, 0.0).item() == 3.0
    assert total_loss({"weak_image": torch.tensor(30.0)}).item() == pytest.approx(3.0)
    with pytest.raises(ValueError, match="nothing to learn"):
        total_loss({})


# --- the weak branch ---


def test_image_loss_sums_over_classes_and_averages_over_images() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    labels = torch.tensor([[1, 0, -1], [0, 1, 1]])
    by_hand = [math.log1p(math.exp(-2)), math.log1p(math.exp(-1)), 0.0, math.log(2), math.log1p(math.exp(-3))]
    expected = (sum(by_hand) + math.log1p(math.exp(2))) / 2
    assert image_loss([logits], labels).item() == pytest.approx(expected, rel=1e-5)
    assert image_loss([logits, logits], labels).item() == pytest.approx(2 * expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["gap", "gwap", "gwap+gap"])
def test_an_image_is_scored_by_its_own_cells(kind: str) -> None:
    """What lies in the padding changes nothing, and a batch of one size is scored as its images are alone."""
    branch = WeakBranch(6, 3, kind)  # type: ignore[arg-type]
    for parameter in branch.parameters():
        torch.nn.init.normal_(parameter)
    features = torch.randn(3, 6, 5, 7)
    cells = [(5, 7), (4, 7), (5, 3)]
    together = branch(features, cells)
    for place, (rows, columns) in enumerate(cells):
        alone = branch(features[place : place + 1, :, :rows, :columns], [(rows, columns)])
        for one, all_of_them in zip(alone.logits, together.logits, strict=True):
            torch.testing.assert_close(one[0], all_of_them[place])
        assert together.score_maps[place].shape == (3, rows, columns)
        if kind != "gap":
            torch.testing.assert_close(together.weight_maps[place].sum((1, 2)), torch.ones(3))
    assert len(together.logits) == (2 if kind == "gwap+gap" else 1)
    assert len(together.weight_maps) == (0 if kind == "gap" else 3)
    if kind != "gwap":
        mean = torch.stack([scores.mean((1, 2)) for scores in together.score_maps])
        torch.testing.assert_close(together.logits[-1], mean)
    alike = branch(features[:2], [(5, 7), (5, 7)])
    torch.testing.assert_close(alike.logits[0][0], together.logits[0][0])


def test_cells_of_a_box_have_their_centre_in_it() -> None:
    boxes = torch.tensor([[0.0, 0, 12, 4], [4, 4, 12.5, 20], [13, 9, 15, 11], [60, 30, 64, 32]])
    cells = boxes_to_cells(boxes, (3, 5), 8).reshape(4, 3, 5)
    assert cells[0].nonzero().tolist() == [[0, 0]]  # no row has its centre in it: the row of the middle
    assert cells[1].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert cells[2].nonzero().tolist() == [[1, 1]]  # smaller than a cell
    assert cells[3].nonzero().tolist() == [[2, 4]]  # beyond the grid: the nearest


def slow_region_loss(scores: np.ndarray, target: BoxTarget, form: str) -> float:
    """Compute the regularisation cell by cell and object by object."""
    classes, rows, columns = scores.shape
    centres = [((y + 0.5) * STRIDE, (x + 0.5) * STRIDE, y, x) for y in range(rows) for x in range(columns)]

    def margin(gap: float) -> float:
        return math.log1p(math.exp(gap)) if form == "softplus" else max(0.0, 1 + gap)

    def inside(box: list[float]) -> list[tuple[int, int]]:
        return [(y, x) for cy, cx, y, x in centres if box[0] <= cx < box[2] and box[1] <= cy < box[3]]

    objects = list(zip(target.boxes.tolist(), target.labels.tolist(), target.difficult.tolist(), strict=True))
    present = {label for _, label, _ in objects}
    terms = []
    for box, label, difficult in objects:
        if difficult:
            continue
        means = [float(np.mean([scores[c][cell] for cell in inside(box)])) for c in range(classes)]
        taken = {cell for other, its, _ in objects if its == label for cell in inside(other)}
        outside = [scores[label, y, x] for *_, y, x in centres if (y, x) not in taken]
        term = margin(float(np.mean(outside)) - means[label]) if outside else 0.0
        absent = [margin(means[c] - means[label]) for c in range(classes) if c not in present]
        terms.append(term + (sum(absent) / len(absent) if absent else 0.0))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("form", ["softplus", "hinge"])
@pytest.mark.parametrize("labels", [[1, 1, 4, 0], [0, 1, 2, 3], [2, 2, 2, 2]])
def test_region_loss_equals_a_slow_reference(labels: list[int], form: str) -> None:
    boxes = [[0, 0, 30, 30], [20, 10, 60, 40], [16, 8, 32, 24], [0, 0, 64, 40]]
    target = target_of(boxes, labels, [False, False, True, labels[0] == 1])
    scores = torch.randn(5, 6, 9) * 2
    found = region_loss(scores, target, STRIDE, form)  # type: ignore[arg-type]
    assert found is not None
    assert found.item() == pytest.approx(slow_region_loss(scores.double().numpy(), target, form), rel=1e-5)


def test_region_loss_starts_at_two_log_two_and_vanishes_with_the_gap() -> None:
    target = target_of([[8, 8, 32, 24]], [1])
    flat = region_loss(torch.zeros(3, 5, 7), target, STRIDE)
    assert flat is not None
    assert flat.item() == pytest.approx(2 * math.log(2))
    scores = torch.zeros(3, 5, 7)
    scores[1] = -200.0
    scores[1, 1:3, 1:4] = 200.0
    scores.requires_grad_()
    loss = region_loss(scores, target, STRIDE)
    assert loss is not None
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert scores.grad.abs().max() == 0


def test_region_loss_leaves_out_what_it_cannot_compare() -> None:
    everywhere = [[0.0, 0, 56, 40]]
    only_absent = region_loss(torch.zeros(2, 5, 7), target_of(everywhere, [1]), STRIDE)
    nothing = region_loss(torch.zeros(1, 5, 7), target_of(everywhere, [0]), STRIDE)
    assert only_absent is not None
    assert nothing is not None
    assert (only_absent.item(), nothing.item()) == (pytest.approx(math.log(2)), 0)
    assert region_loss(torch.zeros(2, 5, 7), target_of(everywhere, [1], [True]), STRIDE) is None
    assert region_loss(torch.zeros(2, 5, 7), target_of([], []), STRIDE) is None
