from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gwapctl.datasets.base import ClassName
from gwapctl.device import resolve_device
from gwapctl.errors import UsageError
from gwapctl.maps import MAPS, gradients
from gwapctl.maps.forward import ForwardPass, Network
from gwapctl.maps.layers import resolve_layers
from gwapctl.maps.localizer import Localizer
from gwapctl.maps.methods import fuse_maps, minmax
from gwapctl.maps.reading import MapReading
from gwapctl.networks.backbones.base import LayerChain
from gwapctl.networks.classifier import Classifier, ModelInfo, build_classifier, convolutions
from gwapctl.networks.heads import build_head
from tests.factories import agree, make_classifier, make_images, network_input, stretched

GRADIENT_MAPS = [name for name, method in MAPS.items() if method.gradient_at]
LAYER_MAPS = [name for name, method in MAPS.items() if method.gradient_at == "layer"]
INNER = ["layers.3.conv1", "layers.2.conv2", "layers.1", "layers.4", "2"]  # of resnet-s
CPU = torch.device("cpu")


def inner_maps(model: Classifier, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Return T of a named layer and the logits, computed with plain hooks on the slow network; T is in the graph."""
    backbone = model.backbone
    kept: dict[str, Tensor] = {}
    parent, _, last = layer.rpartition(".")
    if layer == "2":
        layer, parent, last = "layers.2.conv1", "layers.2", "conv1"
    follows = {"conv1": "bn1", "conv2": "bn2"}.get(last)
    watched = backbone.get_submodule(f"{parent}.{follows}" if follows else layer)

    def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
        kept["map"] = output.clone()
        return kept["map"]

    relus = []
    real_relu = functional.relu

    def relu(features: Tensor, inplace: bool = False) -> Tensor:
        result = real_relu(features)
        if features is kept.get("map"):
            relus.append(result)
        return result

    handle = watched.register_forward_hook(keep)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(functional, "relu", relu)
            logits = model(images.requires_grad_()).logits
    finally:
        handle.remove()
    followed = last == "conv1"  # its batch norm is followed by a ReLU, conv2's by an addition
    return relus[0] if followed else kept["map"], logits


def reference(method: str, model: Classifier, images: Tensor, label: int, layer: str | None) -> Tensor:
    """Return the map (1, 1, h, w) of one image and class, by plain autograd and the formulas' own words."""
    images = images.float()
    if method == "backprop":
        model(images.requires_grad_()).logits[0, label].backward()
        return images.grad.abs().amax(1, keepdim=True)
    if layer is None:
        maps = model.feature_map(images).detach().requires_grad_()
        logits = model.head(maps).logits
    else:
        maps, logits = inner_maps(model, images, layer)
    probabilities = model.probabilities(logits).detach()
    (towards_class,) = torch.autograd.grad(logits[0, label], maps, retain_graph=True)
    if method == "gradcam":
        return (towards_class.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).clamp(min=0).detach()
    if method == "layercam":
        return (towards_class.clamp(min=0) * maps).sum(1, keepdim=True).clamp(min=0).detach()
    labels = torch.zeros_like(logits)
    labels[0, label] = 10.0
    (towards_loss,) = torch.autograd.grad(logits, maps, probabilities - labels)  # TensorFlow's gradient
    enhanced = maps / maps.square().sum().sqrt() - towards_loss / towards_loss.square().sum().sqrt()
    return (towards_class * enhanced).sum(1, keepdim=True).detach()


# -------------------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("head", ["gwap", "gap", "gmp"])
@pytest.mark.parametrize("method", GRADIENT_MAPS)
def test_maps_are_those_of_plain_autograd_one_image_at_a_time(method: str, head: str) -> None:
    model, images = make_classifier(head), make_images((150, 90), (60, 100), (96, 96))
    wanted = [(2, 0), (1,), (3, 1)]
    results = Localizer(model, MapReading(method=method, scales=(96,)), batch_size=3).run(images, wanted, top_k=0)
    for image, labels, result in zip(images, wanted, results, strict=True):
        assert result.classes == labels
        assert not result.shared
        inputs = network_input(image, (96, 96))
        maps = torch.cat([reference(method, model, inputs, label, None) for label in labels], dim=1)
        agree(result, stretched(minmax(maps), image), 5e-3)


@pytest.mark.parametrize("layer", INNER)
@pytest.mark.parametrize("method", LAYER_MAPS)
def test_maps_of_inner_layers(method: str, layer: str) -> None:
    model, images = make_classifier(multi_label=method == "dgl"), make_images((150, 90), (60, 100))
    localizer = Localizer(model, MapReading(method=method, scales=(64,), layer=[layer]))
    for image, result in zip(images, localizer.run(images, [(1,), (1,)], top_k=0), strict=True):
        expected = reference(method, model, network_input(image, (64, 64)), 1, layer)
        agree(result, stretched(minmax(expected), image), 5e-3)


def trained_like(head: str = "gap", images: int = 2, **options: object) -> tuple[Classifier, ForwardPass, Tensor]:
    """Return a model, a pass of random images at its feature map, and classes (B, 2)."""
    model = make_classifier(head)
    inputs = make_images(*[(96, 64)] * images)
    passed = Network(model, device=CPU, gradient_at="layer", **options)(inputs)
    return model, passed, torch.tensor([[1, 2], [3, 0]])[:images]


def test_cam_is_the_case_of_a_constant_gradient() -> None:
    model, passed, classes = trained_like("gap")
    cam = MAPS["class"].read(passed, classes)[0]
    positions = cam.shape[2] * cam.shape[3]
    one_hot = torch.zeros_like(passed.probabilities).scatter_(1, classes[:, :1], 1)
    (gradient,) = passed.gradients(one_hot)
    weights = model.head.classifier.weight.detach()[classes[:, 0]] / positions
    torch.testing.assert_close(gradient, weights[:, :, None, None].expand_as(gradient))
    (maps,) = gradients.dgl(passed, classes)
    torch.testing.assert_close(minmax(maps), minmax(cam), atol=1e-4, rtol=1e-3)
    (maps,) = gradients.gradcam(passed, classes)
    torch.testing.assert_close(maps * positions, cam.relu(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("layers", [(), ("layers.2",)])
def test_dgl_of_infinite_beta_pulls_along_the_class_gradient(layers: tuple[str, ...]) -> None:
    _, passed, classes = trained_like("gwap", layers=layers)
    one_hot = torch.zeros_like(passed.probabilities).scatter_(1, classes[:, :1], 1)
    (gradient,) = passed.gradients(one_hot)
    features = passed.gradient_tensors[0].detach()
    unit = [tensor / tensor.flatten(1).norm(dim=1)[:, None, None, None] for tensor in (features, gradient)]
    expected = (gradient * (unit[0] + unit[1])).sum(1)
    limit = gradients.dgl(passed, classes, beta=1e6)[0][:, 0]
    torch.testing.assert_close(limit, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_beta_has_an_effect_and_is_not_the_true_gradient() -> None:
    _, passed, classes = trained_like("gwap", layers=("layers.2",))
    maps = {beta: minmax(gradients.dgl(passed, classes, beta=beta)[0]) for beta in (1.0, 10.0)}
    assert float((maps[1.0] - maps[10.0]).abs().max()) > 0.01
    assert gradients.BETA == 10
    # autograd would find beta (p - one-hot) as the gradient of labels beta * one-hot: our beta = 1, whatever beta is
    logits = passed.output.logits
    targets = 10.0 * functional.one_hot(classes[:, 0], logits.shape[1])
    true = torch.autograd.grad(-(targets * logits.log_softmax(1)).sum(), passed.gradient_tensors, retain_graph=True)[0]
    towards_class = torch.autograd.grad(
        logits.gather(1, classes[:, :1]).sum(), passed.gradient_tensors, retain_graph=True
    )[0]
    features = passed.gradient_tensors[0].detach()
    unit = [tensor / tensor.flatten(1).norm(dim=1)[:, None, None, None] for tensor in (features, true)]
    with_true = (towards_class * (unit[0] - unit[1])).sum(1, keepdim=True)
    torch.testing.assert_close(minmax(with_true), maps[1.0][:, :1], atol=1e-4, rtol=1e-3)


def test_gradients_of_nothing_are_zero() -> None:
    model = make_classifier("gap")
    nn.init.zeros_(model.head.classifier.weight)
    for method in GRADIENT_MAPS:
        (result,) = Localizer(model, MapReading(method=method, scales=(64,))).run(make_images((64, 48)))
        assert not result.heatmaps.any(), method


def test_fusion_is_of_normalised_maps_on_the_largest_grid() -> None:
    torch.manual_seed(0)
    fine, coarse = torch.randn(2, 3, 8, 12), 100 * torch.randn(2, 3, 4, 6)
    parts = [minmax(fine), functional.interpolate(minmax(coarse), (8, 12), mode="bilinear")]
    torch.testing.assert_close(fuse_maps([fine, coarse], "mean"), (parts[0] + parts[1]) / 2)
    torch.testing.assert_close(fuse_maps([fine, coarse], "max"), torch.maximum(*parts))
    torch.testing.assert_close(fuse_maps([fine, coarse], "product"), parts[0] * parts[1])
    assert fuse_maps([coarse], "product") is coarse


@pytest.mark.parametrize("method", LAYER_MAPS)
def test_two_layers_are_fused(method: str) -> None:
    model, (image,) = make_classifier(), make_images((100, 70))
    layers = ("layers.3.conv1", "layers.1")
    inputs = network_input(image, (64, 64))
    maps = [reference(method, model, inputs, 2, layer) for layer in layers]
    for fusion in ("mean", "max", "product"):
        localizer = Localizer(model, MapReading(method=method, scales=(64,), layer=layers, fuse=fusion))
        assert localizer.reading.layer == layers
        (result,) = localizer.run([image], [(2,)], top_k=0)
        agree(result, stretched(minmax(fuse_maps(maps, fusion)), image), 5e-3)


# ------------------------------------------------------------------------------------------ any network, any batch


def small_classifier(backbone: str, head: str, **fields: object) -> Classifier:
    torch.manual_seed(0)
    names = tuple(ClassName(str(index), str(index)) for index in range(3))
    settings = {"multi_label": False, "input_size": (96, 64), "train_sizes": (64, 96), **fields}
    statistics = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    model = build_classifier(ModelInfo(backbone=backbone, head=head, classes=names, **statistics, **settings))
    for parameter in model.head.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.mark.parametrize(
    ("backbone", "head", "layer"),
    [
        ("googlenet", "gwap", "inception3b.branch2.1.conv"),
        ("resnet18+cam", "gap", "base.layer2"),
        ("timm:resnet10t", "gwap-class", "network.layer2.0.conv1"),
        ("timm:vit_tiny_patch16_224", "gwap", "network.patch_embed.proj"),
    ],
)
def test_networks_of_torchvision_and_timm(backbone: str, head: str, layer: str) -> None:
    if backbone.startswith("timm:"):
        pytest.importorskip("timm")
    model, (image,) = small_classifier(backbone, head), make_images((120, 80))
    inputs = network_input(image, model.info.input_size).float()
    kept: list[Tensor] = []
    is_conv = layer in convolutions(model.backbone)
    follow = {"inception3b.branch2.1.conv": "inception3b.branch2.1", "network.layer2.0.conv1": "network.layer2.0.act1"}
    watched = model.backbone.get_submodule(follow.get(layer, layer))
    handle = watched.register_forward_hook(lambda _, __, output: kept.append(output))
    logits = model(inputs.requires_grad_()).logits
    handle.remove()
    assert is_conv == (layer != "base.layer2")
    (gradient,) = torch.autograd.grad(logits[0, 1], kept[0])
    expected = (gradient.clamp(min=0) * kept[0]).sum(1, keepdim=True).clamp(min=0).detach()
    (result,) = Localizer(model, MapReading(method="layercam", layer=[layer])).run([image], [(1,)], top_k=0)
    agree(result, stretched(minmax(expected), image), 1e-2)


def test_original_network_has_maps_by_backprop() -> None:
    model = small_classifier("alexnet", "original", head_options={"hidden": 8})
    localizer = Localizer(model)
    assert localizer.reading.method == "backprop"
    (result,) = localizer.run(make_images((90, 70)))
    assert result.heatmaps.max() > 0.5
    assert Localizer(model, MapReading(method="dgl", layer=["-1"])).run(make_images((90, 70)))[0].heatmaps.any()
    for method in ("class", "score"):
        with pytest.raises(UsageError, match="map='backprop'"):
            Localizer(model, MapReading(method=method))


@pytest.mark.parametrize(
    ("method", "resize"), [*((method, "keep") for method in (*GRADIENT_MAPS, "score")), ("dgl", "warp")]
)
def test_batch_of_one_is_batch_of_many(method: str, resize: str) -> None:
    model, images = make_classifier(), make_images((150, 90), (60, 100), (90, 60), (90, 150))
    options = {"scales": (64, 80), "method": method, "resize": resize, "flip": True}
    options |= {"layer": ("1", "layers.3"), "fuse": "mean"} if method in LAYER_MAPS else {}
    together = Localizer(model, MapReading(**options), batch_size=4).run(images, top_k=2)
    one = Localizer(model, MapReading(**options), batch_size=1)
    for result, image in zip(together, images, strict=True):
        (alone,) = one.run([image], top_k=2)
        assert alone.classes == result.classes
        # gradients at pixels jump where rounding moves a ReLU or the largest of four: at a few of them
        jumps = np.abs(alone.heatmaps - result.heatmaps) > 4e-3
        assert jumps.mean() <= (0.01 if method == "backprop" else 0)
        np.testing.assert_allclose(alone.heatmaps, result.heatmaps, atol=2e-2)


@pytest.mark.parametrize("method", GRADIENT_MAPS)
def test_scales_and_flips_are_averaged(method: str) -> None:
    model, (image,) = make_classifier(), make_images((70, 130))
    terms = []
    for scale in (64, 96):
        inputs = network_input(image, (scale, scale))
        for mirrored in (False, True):
            maps = reference(method, model, inputs.flip(3) if mirrored else inputs, 1, None)
            terms.append(stretched(minmax(maps.flip(3) if mirrored else maps), image))
    (result,) = Localizer(model, MapReading(method=method, scales=(64, 96), flip=True)).run([image], [(1,)], top_k=0)
    agree(result, minmax(torch.stack(terms).mean(0)), 5e-3)


@pytest.mark.parametrize("method", GRADIENT_MAPS)
def test_several_classes_cost_one_forward_pass(method: str) -> None:
    localizer = Localizer(make_classifier(), MapReading(method=method, scales=(64,)))
    count: list[int] = []
    localizer.model.backbone.register_forward_pre_hook(lambda *_: count.append(1))
    results = localizer.run(make_images((150, 90), (90, 150)), top_k=3)
    assert len(count) == 1
    assert [len(result.heatmaps) for result in results] == [3, 3]


def test_images_may_ask_for_different_numbers_of_classes() -> None:
    localizer = Localizer(make_classifier(), MapReading(method="dgl", scales=(64,), layer=[3]))
    images = make_images((70, 50), (50, 70), (40, 40))
    results = localizer.run(images, [(1, 3), (2,), ()], top_k=0)
    assert [result.heatmaps.shape[0] for result in results] == [2, 1, 0]
    for image, result in zip(images[:2], results, strict=False):
        (last,) = localizer.run([image], [result.classes[-1:]], top_k=0)
        np.testing.assert_allclose(last.heatmaps[0], result.heatmaps[-1], atol=2e-3)
    (nothing,) = localizer.run(images[:1], [()], top_k=0)
    assert nothing.heatmaps.shape == (0, 50, 70)


def test_threads_do_not_see_each_other() -> None:
    model, images = make_classifier(), make_images(*[(60 + 5 * index, 90) for index in range(8)])
    localizer = Localizer(model, MapReading(method="dgl", scales=(64, 96), layer=("layers.2", "layers.3.conv1")))
    expected = [localizer.run([image])[0].heatmaps for image in images]
    start = threading.Barrier(4)

    def work(part: int) -> list[np.ndarray]:
        start.wait(timeout=10)
        return [localizer.run([image])[0].heatmaps for image in images[part::4]]

    with ThreadPoolExecutor(4) as pool:
        for part, found in enumerate(pool.map(work, range(4))):
            for one, other in zip(found, expected[part::4], strict=True):
                np.testing.assert_array_equal(one, other)


def hooks_of(model: nn.Module) -> int:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, name)) for module in model.modules() for name in names)


@pytest.mark.parametrize("method", GRADIENT_MAPS)
def test_the_model_is_left_as_it_was(method: str) -> None:
    model = make_classifier()
    model.train()
    model.backbone.layers[0].requires_grad_(False)
    wants = [parameter.requires_grad for parameter in model.parameters()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layer = ["layers.2"] if method in LAYER_MAPS else None
    localizer = Localizer(model, MapReading(method=method, layer=layer))
    fast = {name: tensor.clone() for name, tensor in localizer.model.state_dict().items()}
    localizer.run(make_images((80, 60), (50, 70)), top_k=2)
    assert model.training
    assert hooks_of(model) == 0
    assert [parameter.requires_grad for parameter in model.parameters()] == wants
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    # the localizer's own copy keeps nothing of a pass either: no gradient, and no graph in the next plain pass
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in localizer.model.parameters())
    for name, tensor in localizer.model.state_dict().items():
        torch.testing.assert_close(tensor, fast[name], rtol=0, atol=0)
    assert not localizer.model(torch.zeros(1, 3, 64, 64)).logits.requires_grad


def test_only_what_is_behind_a_layer_is_kept_for_the_backward_pass() -> None:
    kept: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    inputs = make_images((96, 96))
    for layers, side in (((), 12), (("layers.3",), 12), (("layers.1",), 24), (("layers.0",), 48)):
        network = Network(make_classifier(), device=CPU, gradient_at="layer", layers=layers)
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(inputs)
        maps = [shape for shape in kept if len(shape) == 4 and shape[0] == 1 and shape[2] == shape[3]]
        flat = [shape for shape in kept if len(shape) == 3 and shape[2] == 256]  # (1, N, K): what the head looks at
        sides = {shape[3] for shape in maps} | {math.isqrt(shape[1]) for shape in flat}
        assert max(sides) == side, layers


def test_bf16_maps_are_those_of_fp32() -> None:
    model, images = make_classifier(), make_images((150, 90), (90, 120))
    for method in GRADIENT_MAPS:
        layer = ["layers.3.conv1"] if method in LAYER_MAPS else None
        maps = [
            Localizer(model, MapReading(method=method, scales=(64,), layer=layer), precision=precision).run(
                images, [(1,), (2,)], top_k=0
            )
            for precision in ("fp32", "bf16")
        ]
        for exact, rough in zip(*maps, strict=True):
            pair = exact.heatmap(0).ravel(), rough.heatmap(0).ravel()
            assert np.isfinite(pair[1]).all()
            assert np.corrcoef(*pair)[0, 1] > 0.98, method


# ---------------------------------------------------------------------------------------------------------- layers


def test_layers_by_name_and_number() -> None:
    backbone = make_classifier().backbone
    names = list(convolutions(backbone))
    assert resolve_layers(backbone, ["0", 3, "-1", "layers.2"]) == (names[0], names[3], names[-1], "layers.2")
    fast = Localizer(make_classifier(), MapReading(method="dgl", layer=[5]))
    assert list(convolutions(fast.model.backbone)) == names  # folded batch norms do not shift the numbers
    assert fast.reading.layer == (names[5],)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": ["layers.9"]}, "no layer 'layers.9'. Did you mean 'layers."),
        ({"layer": [99]}, "convolutions 0 to 9: gwapctl models show"),
        ({"layer": ["2", "layers.2.conv1"]}, "name one layer twice"),
        ({"layer": ["3"], "method": "weight"}, "map weight is not read at a layer.*'gradcam', 'layercam' or 'dgl'"),
        ({"layer": ["3"], "method": "backprop"}, "map backprop is not read at a layer"),
        ({"layer": ["3"], "fuse": "max"}, "fuse='max' needs several layers"),
        ({"layer": ["3", "4"], "fuse": "sum"}, "unknown fusion 'sum'"),
        ({"backprop_seg": "mean"}, "backprop_seg= cuts the map of backprop, not of dgl"),
        ({"backprop_seg": "otsu", "method": "backprop"}, "unknown segmentation 'otsu'"),
        ({"crops": "five"}, "unknown crops 'five'"),
        ({"crops": "ten", "scales": (64, 96)}, "Drop scales="),
        ({"crops": "ten", "flip": True}, "Drop scales="),
        ({"close": 1.5}, "Write it like close=0.05"),
        ({"method": "foreground"}, "no foreground map"),
    ],
)
def test_settings_that_do_not_go_together(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Localizer(make_classifier(), MapReading(**{"method": "dgl", **options}))
    assert "\n" not in str(caught.value)


def test_a_layer_without_a_feature_map() -> None:
    class Aside(LayerChain):
        def forward(self, images: Tensor) -> Tensor:
            features = self.stem(images)
            self.last(features.permute(0, 2, 3, 1))
            return features

    layers = {"stem": nn.Conv2d(3, 4, 3, 8), "last": nn.Identity(), "unused": nn.Conv2d(3, 3, 1)}
    info = make_classifier().info
    model = Classifier(info, Aside(layers, channels=4, stride=8), build_head("gap", 4, 4)).eval()
    with pytest.raises(UsageError, match="layer unused takes no part"):
        Localizer(model, MapReading(method="dgl", layer=["unused"]))
    with pytest.raises(UsageError, match=r"layer last gives \(1, 12, 20, 4\), which is no feature map"):
        Localizer(model, MapReading(method="dgl", layer=["last"]))
    assert Localizer(model, MapReading(method="dgl", layer=["stem"])).run(make_images((40, 30)))[0].heatmaps.any()


def test_stored_layers_belong_to_the_stored_map() -> None:
    model = make_classifier(map="dgl", layer=("layers.2", "layers.3"), fuse="max", close=0.05)
    stored = Localizer(model)
    assert (stored.reading.method, stored.reading.layer) == ("dgl", ("layers.2", "layers.3"))
    assert (stored.reading.fuse, stored.reading.close) == ("max", 0.05)
    assert stored.values == "minmax_mean"
    other = Localizer(model, MapReading(method="class", close=0.0))
    assert (other.reading.layer, other.reading.fuse, other.reading.close, other.values) == ((), "mean", 0.0, "minmax")
    assert Localizer(model, MapReading(layer=["layers.1"], fuse="mean")).reading.layer == ("layers.1",)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gradient_maps_on_a_gpu() -> None:
    model, images = make_classifier(), make_images((150, 90), (90, 120))
    for method in GRADIENT_MAPS:
        expected = Localizer(model, MapReading(method=method, scales=(64, 96)), device="cpu").run(images, top_k=2)
        found = Localizer(model, MapReading(method=method, scales=(64, 96)), device=str(resolve_device("auto"))).run(
            images, top_k=2
        )
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(one.heatmaps, other.heatmaps, atol=2e-2)
