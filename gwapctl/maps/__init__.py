"""From a trained classifier and an image to heatmaps: map methods, averaging over scales, flips and crops.

A new map method is a function in a file of this folder, one entry in ``MAPS`` and its tests. Names need no torch: the
function's module is imported when a map is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from gwapctl.maps.forward import GradientAt


@dataclass(frozen=True)
class MapMethod:
    """What is known of a way to read a map out of a forward pass without importing it.

    Attributes:
        path: ``module:function`` of what makes the maps (``gwapctl.maps.methods``).
        label: what the map is called in tables and figures.
        help: what it shows, in one line.
        formula: of its values; F is the feature map, T that of the layer, g its gradient, z and w those of class c.
        paper: where it comes from.
        needs: of the head.
        gradient_at: what gradients are taken to; None: it needs no gradient.
        backward: how many backward passes a class costs.
        normalised: the maps are stretched to [0, 1], each by itself; otherwise values of images can be compared.
        options: fields of ``MapReading`` that ``read`` takes by name, and no other method does.

    """

    path: str
    label: str
    help: str
    formula: str = ""
    paper: str = "ours"
    needs: str = "any head"
    gradient_at: GradientAt | None = None
    backward: int = 0
    normalised: bool = False
    options: tuple[str, ...] = ()

    @property
    def read(self) -> Callable[..., Sequence[Tensor]]:
        """What makes the maps."""
        return resolve_name(self.path)  # type: ignore[no-any-return]


MAPS: dict[str, MapMethod] = {
    "weight": MapMethod(
        "gwapctl.maps.methods:weight_map",
        "weight map",
        "where the head looks: its pooling weights",
        formula="α(x,y), one map for all classes or one per class (`gwap-class`)",
        paper="GWAP, eq. 4 and 8",
        needs="a head with weights",
    ),
    "class": MapMethod(
        "gwapctl.maps.methods:class_map",
        "class map",
        "class activation map (CAM)",
        formula="`sum_k w_ck F_k(x,y)`, no bias",
        paper="CAM, eq. 2",
        needs="a linear classifier",
    ),
    "score": MapMethod(
        "gwapctl.maps.methods:score_map",
        "score map",
        "what the head gives each position alone",
        formula="s_c(x,y): the class map with bias, or the head's own score map",
        paper="GWAP, eq. 1",
        needs="a head that scores positions",
    ),
    "fused": MapMethod(
        "gwapctl.maps.methods:fused_map",
        "weight and class map",
        "mean of weight and class map",
        formula="mean of α (head `background`: its foreground) and class map, min-max each",
        needs="as `weight` and `class`",
        normalised=True,
    ),
    "foreground": MapMethod(
        "gwapctl.maps.methods:foreground_map",
        "foreground map",
        "the class-free map of head background",
        formula="ReLU(A), which knows no class",
        paper="after Kou et al.; ours",
        needs="head `background`",
    ),
    "backprop": MapMethod(
        "gwapctl.maps.gradients:backprop",
        "saliency",
        "gradient at the pixels (saliency)",
        formula="`max_ch abs(dz_c/dI)`, I the RGB image",
        paper="Simonyan et al., 1312.6034, 3.1",
        gradient_at="image",
        backward=1,
        normalised=True,
    ),
    "gradcam": MapMethod(
        "gwapctl.maps.gradients:gradcam",
        "Grad-CAM",
        "features of a layer, weighted by their mean gradients",
        formula="`ReLU(sum_k mean_xy(g_ck) T_k)`",
        paper="Selvaraju et al., 1610.02391, eq. 1, 2",
        gradient_at="layer",
        backward=1,
        normalised=True,
    ),
    "layercam": MapMethod(
        "gwapctl.maps.gradients:layercam",
        "LayerCAM",
        "features of a layer, weighted position by position",
        formula="`ReLU(sum_k ReLU(g_ck) T_k)`",
        paper="Jiang et al., TIP 2021",
        gradient_at="layer",
        backward=1,
        normalised=True,
    ),
    "dgl": MapMethod(
        "gwapctl.maps.gradients:dgl",
        "dual gradients",
        "dual gradients of a layer",
        formula="`sum_k g_ck A_k`, `A = T/‖T‖ - g_J/‖g_J‖`",
        paper="Tan et al., ACM MM 2020, and its code",
        gradient_at="layer",
        backward=2,
        normalised=True,
        options=("beta",),
    ),
}


def layer_maps() -> list[str]:
    """Return the names of the methods that are read at a layer."""
    return [name for name, method in MAPS.items() if method.gradient_at == "layer"]
