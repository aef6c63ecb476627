"""Heads, tested by what must be identical: each one with its formula, its limits and its neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gwapctl.errors import UsageError
from gwapctl.networks.backbones import BACKBONES, build_backbone
from gwapctl.networks.heads import HEADS, build_head, head_options
from gwapctl.networks.heads.base import Head, HeadOutput

CHANNELS, CLASSES, GRID = 7, 5, (3, 4)
LINEAR = [name for name in HEADS if name not in ("background", "original")]  # one linear layer on the feature map
LEARNT = ["gwap", "gwap-no-sigmoid", "gwap-no-exp"]
AVERAGING = ["gap", "gwap-gt", *LEARNT]  # logits linear in F for given weights: pooled class map + bias
WITH_WEIGHT_MAP = ["gwap-class", "gwap-gt", *LEARNT]
WITH_SCORE_MAP = ["gap-relu", "gmp", "gwap-class", "lse", "weldon", "wildcat"]


def features(*, batch: int = 2, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Tensor:
    return torch.randn(batch, CHANNELS, *GRID, dtype=dtype) * scale


def head_of(name: str, *, spread: float = 1.0, **options: float) -> Head:
    """Build a head in float64 whose parameters are drawn, not near zero as at the start of training."""
    torch.manual_seed(3)
    head = build_head(name, CHANNELS, CLASSES, options).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=spread)
    return head


def run(head: Head, feature_map: Tensor, region: Tensor | None = None) -> HeadOutput:
    if head.sees_boxes:
        batch, _, height, width = feature_map.shape
        default = torch.zeros(batch, 1, 8 * height, 8 * width, device=feature_map.device)
        default[:, :, 4:13, 6:26] = 1
        output: HeadOutput = head(feature_map, default if region is None else region)
        return output
    return head(feature_map)  # type: ignore[no-any-return]


def scores_of(head: Head, feature_map: Tensor) -> Tensor:
    """Compute S (B, C, h, w) position by position, slowly: the linear layer of the head on every feature vector."""
    linear = head.get_submodule("classifier")
    return linear(feature_map.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


# --- every head ---


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (14, 9)])
def test_shapes_on_any_grid(name: str, grid: tuple[int, int]) -> None:
    head = build_head(name, CHANNELS, CLASSES)
    output = run(head, torch.randn(3, CHANNELS, *grid))
    assert output.logits.shape == (3, CLASSES)
    assert output.logits.isfinite().all()
    assert (output.weight_map is not None) == (name in WITH_WEIGHT_MAP)
    assert (output.score_map is not None) == (name in WITH_SCORE_MAP)
    for maps in (output.weight_map, output.score_map):
        assert maps is None or maps.shape in {(3, 1, *grid), (3, CLASSES, *grid)}


@pytest.mark.parametrize("backbone_name", sorted(BACKBONES))
def test_every_head_on_every_backbone(backbone_name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(backbone_name)
        feature_map = backbone(torch.zeros(2, 3, 72, 101))
        for name in HEADS if backbone.channels in (256, 512) else LINEAR:
            assert run(build_head(name, backbone.channels, CLASSES), feature_map).logits.shape == (2, CLASSES)


@pytest.mark.parametrize("name", LINEAR)
def test_batch_of_one_is_batch_of_many(name: str) -> None:
    head = head_of(name)
    feature_map = features(batch=3)
    together, alone = run(head, feature_map), run(head, feature_map[1:2])
    for many, one in zip(together, alone, strict=True):
        assert (many is None) == (one is None)
        if many is not None and one is not None:
            torch.testing.assert_close(many[1:2], one)


@pytest.mark.parametrize("name", [name for name in LINEAR if name != "gwap-gt"])
def test_permuting_positions_permutes_maps_and_keeps_logits(name: str) -> None:
    head = head_of(name)
    feature_map = features()
    order = torch.randperm(GRID[0] * GRID[1])

    def permuted(maps: Tensor) -> Tensor:
        return maps.flatten(2)[:, :, order].unflatten(2, GRID)  # type: ignore[no-any-return, no-untyped-call]

    before, after = head(feature_map), head(permuted(feature_map))
    torch.testing.assert_close(after.logits, before.logits)
    for old, new in ((before.weight_map, after.weight_map), (before.score_map, after.score_map)):
        if old is not None:
            torch.testing.assert_close(new, permuted(old))


@pytest.mark.parametrize("name", LINEAR)
def test_memory_layout_does_not_matter(name: str) -> None:
    head = head_of(name)
    feature_map = features()
    channels_last = run(head, feature_map.to(memory_format=torch.channels_last))
    for one, other in zip(run(head, feature_map), channels_last, strict=True):
        if one is not None:
            torch.testing.assert_close(other, one)


@pytest.mark.parametrize("name", LINEAR)
def test_gradients_are_the_numerical_ones(name: str) -> None:
    head = head_of(name, spread=0.5)
    feature_map = features(batch=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(t for t in run(head, x) if t is not None), (feature_map,))


@pytest.mark.parametrize("name", LINEAR)
def test_every_parameter_is_trained(name: str) -> None:
    head = head_of(name)
    run(head, features()).logits.square().sum().backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad is not None, parameter_name
        # a softmax does not see a shift: without sigmoid the bias of the weights cannot learn
        shift = name == "gwap-no-sigmoid" and parameter_name == "weight_score.bias"
        assert (parameter.grad.abs().max().item() < 1e-12) == shift, parameter_name


@pytest.mark.parametrize("name", [name for name in LINEAR if name != "gap-relu"])  # whose scores no sigmoid can use
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_single_and_multi_label_losses_fall(name: str, loss: str) -> None:
    head = build_head(name, CHANNELS, CLASSES)
    feature_map = features(dtype=torch.float32, batch=4)
    labels = torch.arange(4)
    target = nn.functional.one_hot(labels, CLASSES).float()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        logits = run(head, feature_map).logits
        criterion = nn.functional.cross_entropy if loss == "softmax" else nn.functional.binary_cross_entropy_with_logits
        value = criterion(logits, labels if loss == "softmax" else target)
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", LINEAR)
def test_class_maps_are_those_of_the_classes_asked_for(name: str) -> None:
    head = head_of(name)
    feature_map = features()
    classes = torch.tensor([[4, 0, 4], [1, 2, 3]])
    maps = head.class_map(feature_map, classes)
    assert maps.shape == (2, 3, *GRID)
    weights = head.class_weights()
    for image in range(2):
        for place, index in enumerate(classes[image]):
            expected = sum(weights[index, k] * feature_map[image, k] for k in range(CHANNELS))
            torch.testing.assert_close(maps[image, place], expected)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pooling_runs_in_float32_under_autocast(name: str, dtype: torch.dtype) -> None:
    head = build_head(name, 64, CLASSES)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    half = torch.randn(2, 64, 37, 40).to(dtype)  # about the 1,400 positions of a 600-pixel image
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = run(head, half)
        maps = head.class_map(half, torch.tensor([[0], [1]]))
    plain = run(head, half.float())
    assert maps.dtype == torch.float32
    for under_autocast, expected in zip(output, plain, strict=True):
        if under_autocast is not None and expected is not None:
            assert under_autocast.dtype == torch.float32
            torch.testing.assert_close(under_autocast, expected, rtol=1e-5, atol=1e-6)


def test_starting_weights_are_cams() -> None:
    for name in LINEAR:
        head = build_head(name, 512, 40)
        for parameter_name, parameter in head.named_parameters():
            if parameter_name.endswith("bias"):
                assert not parameter.any()
            else:
                assert parameter.std().item() == pytest.approx(0.01, rel=0.15)


# --- heads that average: eq. 1-5 ---


@pytest.mark.parametrize("name", WITH_WEIGHT_MAP)
def test_weights_sum_to_one(name: str) -> None:
    alpha = run(head_of(name), features(scale=5)).weight_map
    assert alpha is not None
    torch.testing.assert_close(alpha.sum((2, 3)), torch.ones_like(alpha.sum((2, 3))))
    assert (alpha >= 0).all()


@pytest.mark.parametrize("name", LEARNT)
def test_zero_weights_are_gap(name: str) -> None:
    head, gap = head_of(name), head_of("gap")
    gap.load_state_dict({key: value for key, value in head.state_dict().items() if key.startswith("classifier")})
    nn.init.zeros_(head.get_parameter("weight_score.weight"))
    # integers: sums are exact in any order, so "exactly" can be asked for; 8 positions: 1/N is exact, too
    feature_map = torch.randint(-50, 50, (2, CHANNELS, 2, 4)).double()
    output = head(feature_map)
    assert torch.equal(output.weight_map, torch.full_like(output.weight_map, 1 / 8))
    assert torch.equal(output.logits, gap(feature_map).logits)


@pytest.mark.parametrize("name", AVERAGING)
def test_aggregating_features_is_aggregating_scores(name: str) -> None:
    """Check eq. 1 = eq. 2, with a bias, too: ``W sum(alpha F) + b = sum(alpha (W F + b))``."""
    head = head_of(name)
    feature_map = features()
    output = run(head, feature_map)
    alpha = (
        output.weight_map if output.weight_map is not None else torch.full((2, 1, *GRID), 1 / math.prod(GRID)).double()
    )
    torch.testing.assert_close((alpha * scores_of(head, feature_map)).sum((2, 3)), output.logits)
    every_class = torch.arange(CLASSES).expand(2, -1)
    pooled = (alpha * head.class_map(feature_map, every_class)).sum((2, 3))
    torch.testing.assert_close(pooled + head.get_parameter("classifier.bias"), output.logits)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gwap", lambda z: torch.exp(torch.sigmoid(z))),
        ("gwap-no-sigmoid", torch.exp),
        ("gwap-no-exp", torch.sigmoid),
    ],
)
def test_stable_form_is_the_printed_formula(name: str, function: Callable[[Tensor], Tensor]) -> None:
    """Check eq. 3 and 4 as printed, in float64: ``M = f(w F + b)``, ``alpha = M / sum M``."""
    head = head_of(name)
    feature_map = features(scale=3)
    w, b = head.get_parameter("weight_score.weight").view(-1), head.get_parameter("weight_score.bias")
    m = function(sum(w[k] * feature_map[:, k] for k in range(CHANNELS)) + b)
    alpha = m / m.sum((1, 2), keepdim=True)
    torch.testing.assert_close(head(feature_map).weight_map[:, 0], alpha, rtol=1e-12, atol=1e-15)
    f = (alpha[:, None] * feature_map).sum((2, 3))  # eq. 5
    torch.testing.assert_close(head(feature_map).logits, head.get_submodule("classifier")(f))


@pytest.mark.parametrize("name", ["gwap", "gwap-class"])
def test_weights_stay_within_a_factor_of_e(name: str) -> None:
    """Check ``M in (1, e)``: no weight can fall below 1/e of the largest, whatever the features are."""
    feature_map = features(scale=1e4)
    alpha = head_of(name)(feature_map).weight_map.flatten(2)
    ratio = alpha.amin(2) / alpha.amax(2)
    positions = math.prod(GRID)
    assert (ratio >= 1 / math.e - 1e-12).all()
    assert ratio.min() < 0.4  # and the bound is reached, so the check can fail
    assert (alpha >= 1 / ((positions - 1) * math.e + 1) - 1e-12).all()
    assert (alpha <= math.e / (math.e + positions - 1) + 1e-12).all()


@pytest.mark.parametrize("name", LEARNT)
def test_extreme_features_stay_finite(name: str) -> None:
    head = head_of(name).float()
    output = head(features(dtype=torch.float32, scale=1e4))
    assert output.logits.isfinite().all()
    torch.testing.assert_close(output.weight_map.sum((2, 3)), torch.ones(2, 1))


def test_without_exp_vanishing_weights_are_still_relative() -> None:
    """Where every sigmoid is about exp(z), their shares are softmax(z): an epsilon in the sum would lose them."""
    head = head_of("gwap-no-exp")
    nn.init.constant_(head.get_parameter("weight_score.bias"), -300.0)
    feature_map = features()
    z = torch.einsum("k,bkhw->bhw", head.get_parameter("weight_score.weight").view(-1), feature_map)
    torch.testing.assert_close(head(feature_map).weight_map.flatten(1), torch.softmax(z.flatten(1), 1))


def test_without_sigmoid_a_shift_changes_nothing() -> None:
    head = head_of("gwap-no-sigmoid")
    feature_map = features()
    before = head(feature_map).weight_map
    nn.init.constant_(head.get_parameter("weight_score.bias"), 123.0)
    torch.testing.assert_close(head(feature_map).weight_map, before)


# --- gwap-gt: the head that sees boxes ---


def test_only_gwap_gt_sees_boxes() -> None:
    assert [name for name in LINEAR if build_head(name, CHANNELS, CLASSES).sees_boxes] == ["gwap-gt"]
    with pytest.raises(UsageError, match=r"gwap-gt pools inside ground-truth boxes, and there are none here"):
        head_of("gwap-gt")(features())


def test_given_weights_are_the_share_of_each_cell_that_boxes_cover() -> None:
    region = torch.zeros(2, 1, 30, 40)  # cells of 10 x 10 pixels
    region[0, :, 0:10, 0:10] = 1  # one whole cell
    region[0, :, 10:20, 10:15] = 1  # half a cell
    region[1, :, 25:30, 38:40] = 1  # a tenth of the last cell
    alpha = run(head_of("gwap-gt"), features(), region).weight_map
    assert alpha is not None
    expected = torch.zeros(2, 1, *GRID).double()
    expected[0, 0, 0, 0], expected[0, 0, 1, 1] = 2 / 3, 1 / 3
    expected[1, 0, 2, 3] = 1
    torch.testing.assert_close(alpha, expected)


@pytest.mark.parametrize("value", [0, 1])
def test_given_weights_without_boxes_or_all_box_are_gap(value: int) -> None:
    head, gap = head_of("gwap-gt"), head_of("gap")
    gap.load_state_dict(head.state_dict())
    feature_map = features()
    output = run(head, feature_map, torch.full((2, 1, 25, 31), value))
    torch.testing.assert_close(output.logits, gap(feature_map).logits)


def test_given_weights_flip_with_the_image() -> None:
    head = head_of("gwap-gt")
    region = (torch.rand(2, 1, 27, 36) > 0.7).float()
    feature_map = features()
    straight, mirrored = run(head, feature_map, region), run(head, feature_map.flip(3), region.flip(3))
    torch.testing.assert_close(mirrored.logits, straight.logits)


# --- heads that pool scores ---


def test_gap_relu_averages_what_is_above_zero() -> None:
    head = build_head("gap-relu", 1, 2).double()
    head.get_parameter("classifier.weight").data[:] = torch.tensor([[1.0], [-2.0]])
    head.get_parameter("classifier.bias").data[:] = torch.tensor([0.5, 0.0])
    output = head(torch.tensor([[[[-1.0, 0.0, 2.5]]]], dtype=torch.float64))
    assert output.score_map.tolist() == [[[[0, 0.5, 3.0]], [[2.0, 0, 0]]]]
    torch.testing.assert_close(output.logits, torch.tensor([[3.5 / 3, 2 / 3]], dtype=torch.float64))


@pytest.mark.parametrize("name", [name for name in WITH_SCORE_MAP if name != "gap-relu"])
def test_score_map_is_the_linear_layer_at_every_position(name: str) -> None:
    options = {"maps": 1} if name == "wildcat" else {}
    head = head_of(name, **options)
    feature_map = features()
    scores = head(feature_map).score_map
    torch.testing.assert_close(scores, scores_of(head, feature_map))
    maps = head.class_map(feature_map, torch.arange(CLASSES).expand(2, -1))
    torch.testing.assert_close(scores - maps, head.get_parameter("classifier.bias").view(-1, 1, 1).expand_as(scores))


def pooled(name: str, feature_map: Tensor, **options: float) -> Tensor:
    """Pool with a head whose linear layer is that of the GAP of the same features."""
    head, gap = head_of(name, **options), head_of("gap")
    head.load_state_dict(gap.state_dict())
    logits: Tensor = head(feature_map).logits
    return logits


def test_gmp_is_the_largest_score() -> None:
    feature_map = features()
    scores = scores_of(head_of("gap"), feature_map)
    torch.testing.assert_close(pooled("gmp", feature_map), scores.flatten(2).max(2).values)


def test_gmp_of_features_classifies_each_channels_maximum() -> None:
    feature_map = features()
    linear = head_of("gap").get_submodule("classifier")
    torch.testing.assert_close(pooled("gmp-features", feature_map), linear(feature_map.flatten(2).max(2).values))


def test_lse_is_its_formula_and_lies_between_mean_and_maximum() -> None:
    feature_map = features()
    scores = scores_of(head_of("gap"), feature_map).flatten(2)
    expected = torch.log(torch.exp(5 * scores).mean(2)) / 5
    torch.testing.assert_close(pooled("lse", feature_map), expected)
    assert (expected > scores.mean(2)).all()
    assert (expected < scores.amax(2)).all()
    torch.testing.assert_close(pooled("lse", feature_map, r=1e-6), scores.mean(2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled("lse", feature_map, r=1e5), scores.amax(2), rtol=1e-4, atol=1e-4)


def test_weldon_by_hand_and_its_limits() -> None:
    feature_map = features()
    ordered = scores_of(head_of("gap"), feature_map).flatten(2).sort(2).values
    expected = ordered[:, :, -2:].mean(2) + ordered[:, :, :3].mean(2)
    torch.testing.assert_close(pooled("weldon", feature_map, k_plus=2, k_minus=3), expected)
    torch.testing.assert_close(pooled("weldon", feature_map, k_plus=1, k_minus=0), pooled("gmp", feature_map))
    torch.testing.assert_close(pooled("weldon", feature_map, k_plus=99, k_minus=0), pooled("gap", feature_map))
    torch.testing.assert_close(pooled("weldon", feature_map, k_plus=12, k_minus=12), 2 * pooled("gap", feature_map))


def test_wildcat_by_hand() -> None:
    head = head_of("wildcat", maps=3, k_plus=0.25, k_minus=2, a=0.7)
    feature_map = features()
    per_map = scores_of(head, feature_map)  # (B, C * 3, h, w), the maps of a class side by side
    scores = torch.stack([per_map[:, 3 * c : 3 * c + 3].mean(1) for c in range(CLASSES)], dim=1)
    output = head(feature_map)
    torch.testing.assert_close(output.score_map, scores)
    ordered = scores.flatten(2).sort(2).values
    torch.testing.assert_close(output.logits, ordered[:, :, -3:].mean(2) + 0.7 * ordered[:, :, :2].mean(2))


def test_wildcat_with_one_map_is_its_neighbours() -> None:
    feature_map = features()
    for k_plus, k_minus in ((3, 3), (2, 5)):
        one = pooled("wildcat", feature_map, maps=1, k_plus=k_plus, k_minus=k_minus, a=1)
        torch.testing.assert_close(one, pooled("weldon", feature_map, k_plus=k_plus, k_minus=k_minus))
    torch.testing.assert_close(
        pooled("wildcat", feature_map, maps=1, k_plus=0.5, a=1),
        pooled("weldon", feature_map, k_plus=6, k_minus=6),
    )
    torch.testing.assert_close(pooled("wildcat", feature_map, maps=1, k_plus=12, a=0), pooled("gap", feature_map))
    torch.testing.assert_close(
        pooled("wildcat", feature_map, maps=1, k_plus=1e-9, k_minus=0), pooled("gmp", feature_map)
    )


def test_class_specific_gwap_is_equations_6_to_9() -> None:
    head = head_of("gwap-class")
    feature_map = features()
    s = scores_of(head, feature_map)
    background = head.get_submodule("background")(feature_map.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    exponentials = torch.exp(torch.cat([s, background], 1))
    o = exponentials / exponentials.sum(1, keepdim=True)  # (6), over C + 1
    torch.testing.assert_close(o.sum(1), torch.ones(2, *GRID).double())
    m = o[:, :CLASSES] * torch.sigmoid(s)  # (7)
    alpha = torch.exp(m) / torch.exp(m).sum((2, 3), keepdim=True)  # (8)
    output = head(feature_map)
    torch.testing.assert_close(output.weight_map, alpha)
    torch.testing.assert_close(output.logits, (alpha * s).sum((2, 3)))  # (9)


def test_class_specific_gwap_with_one_class_and_no_background_is_the_agnostic_form() -> None:
    head = build_head("gwap-class", CHANNELS, 1).double()
    agnostic = build_head("gwap", CHANNELS, 1).double()
    weight = torch.randn(1, CHANNELS).double()
    with torch.no_grad():
        head.get_parameter("classifier.weight").copy_(weight)
        agnostic.get_parameter("weight_score.weight").copy_(weight.view(1, CHANNELS, 1, 1))
        agnostic.get_parameter("classifier.weight").copy_(weight)
        head.get_parameter("background.bias").fill_(-1e9)
    feature_map = features()
    torch.testing.assert_close(head(feature_map).weight_map, agnostic(feature_map).weight_map)
    torch.testing.assert_close(head(feature_map).logits, agnostic(feature_map).logits)


def test_background_learns_only_through_who_owns_a_position() -> None:
    head = head_of("gwap-class")
    nn.init.constant_(head.get_parameter("background.bias"), -1e9)  # it owns nothing, so it cannot matter
    head(features()).logits.sum().backward()
    gradient = head.get_parameter("background.weight").grad
    assert gradient is not None
    assert not gradient.any()


# --- the unmodified networks' own layers ---


@pytest.mark.parametrize(("channels", "grid"), [(256, (13, 13)), (256, (36, 20)), (512, (14, 14)), (512, (9, 31))])
def test_original_is_the_network_s_own_pooling_and_layers(channels: int, grid: tuple[int, int]) -> None:
    head = build_head("original", channels, CLASSES, {"hidden": 8}).eval()
    first, second, last = [
        layer for layer in head.get_submodule("classifier").children() if isinstance(layer, nn.Linear)
    ]
    kernel, side = {256: (3, 6), 512: (2, 7)}[channels]
    feature_map = torch.randn(2, channels, *grid)
    pooled = nn.functional.adaptive_avg_pool2d(nn.functional.max_pool2d(feature_map, kernel, 2), side)
    expected = last(torch.relu(second(torch.relu(first(pooled.flatten(1))))))
    output = head(feature_map)
    torch.testing.assert_close(output.logits, expected)
    assert output.weight_map is None
    assert output.score_map is None


def test_original_has_no_class_map_and_no_other_networks() -> None:
    head = build_head("original", 512, CLASSES, {"hidden": 8})
    with pytest.raises(UsageError, match=r"no class map.*map='backprop'"):
        head.class_map(torch.randn(1, 512, 7, 9), torch.tensor([[0]]))
    with pytest.raises(
        UsageError, match=r"head original belongs to alexnet, alexnet-caffe, caffenet and vgg16, not to 832 channels"
    ):
        build_head("original", 832, CLASSES)


def test_dropout_acts_in_training_alone() -> None:
    head = build_head("gwap", CHANNELS, CLASSES, {"dropout": 0.5}).double()
    plain = build_head("gwap", CHANNELS, CLASSES).double()
    plain.load_state_dict(head.state_dict())
    feature_map = features()
    assert not torch.equal(head(feature_map).logits, plain(feature_map).logits)
    torch.testing.assert_close(head.eval()(feature_map).logits, plain(feature_map).logits)


# --- names and options ---


def test_unknown_head_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown head 'gwep'. Did you mean 'gwap'\?"):
        build_head("gwep", CHANNELS, CLASSES)


def test_options_are_listed_and_checked() -> None:
    assert head_options("weldon") == {"k_plus": 3, "k_minus": 3}
    assert head_options("gmp") == {}
    with pytest.raises(
        UsageError, match=r"weldon has no option 'k_pluss'. Did you mean 'k_plus'\? Its options: k_plus"
    ):
        build_head("weldon", CHANNELS, CLASSES, {"k_pluss": 1})
    with pytest.raises(UsageError, match=r"head gmp has no option 'r'. It has none"):
        build_head("gmp", CHANNELS, CLASSES, {"r": 1})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lse", {"r": 0}),
        ("lse", {"r": math.nan}),
        ("lse", {"r": "many"}),
        ("weldon", {"k_plus": 0}),
        ("weldon", {"k_minus": -1}),
        ("wildcat", {"maps": 0}),
        ("wildcat", {"k_plus": -0.2}),
        ("gap", {"dropout": 1}),
    ],
)
def test_senseless_options_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r".*not"):
        build_head(name, CHANNELS, CLASSES, options)
