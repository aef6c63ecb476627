"""Inner layers by name or index, and how one forward pass hands over their feature maps.

The feature map of a convolution is its activation: what the batch norm and the nonlinearity leave that follow it
directly, if they do. That is the map that the released codes of DGL take. Of any other module it is the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function_unary

from gwapctl.errors import UsageError, closest
from gwapctl.networks.classifier import convolutions

FOLLOWS_A_CONVOLUTION: frozenset[Callable[..., Any]] = frozenset((
    functional.batch_norm,
    *(functional.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_),
    *(functional.relu6, functional.leaky_relu, functional.elu, functional.gelu),
    *(functional.silu, functional.hardswish, functional.mish),
))  # fmt: skip
MOST_STRETCHED = 2.0  # a map whose aspect ratio is that far from the input's has its axes in another order


def resolve_layers(backbone: nn.Module, wanted: Sequence[str | int]) -> tuple[str, ...]:
    """Return the names of the modules that ``wanted`` names, or counts among the convolutions (negative: from the end).

    A layer that is not there, or is named twice, is a ``UsageError``.
    """
    numbered = list(convolutions(backbone))
    named = dict(backbone.named_modules())
    found = []
    for layer in wanted:
        text = str(layer).strip()
        if text.removeprefix("-").isdecimal() and -len(numbered) <= int(text) < len(numbered):
            found.append(numbered[int(text)])
        elif text and text in named:
            found.append(text)
        else:
            have = f"convolutions 0 to {len(numbered) - 1}" if numbered else "no convolutions"
            hint = closest(text, named)
            raise UsageError(f"the model has no layer {text!r}.{hint} It has {have}: gwapctl models show lists them.")
    if len(set(found)) < len(found):
        raise UsageError(f"layers {', '.join(map(str, wanted))} name one layer twice. Give each of them once.")
    return tuple(found)


def announce_layers(backbone: nn.Module, names: Sequence[str]) -> None:
    """Let the layers ``names`` hand their output to the ``Recorder`` that is active in their thread, if one is.

    The hooks stay: without a recorder they do nothing, and adding them for each pass would disturb other threads.
    """
    for name in names:
        module = backbone.get_submodule(name)
        convolution = isinstance(module, nn.Conv2d)
        module.register_forward_hook(lambda _module, _inputs, output, of=(name, convolution): _announce(output, *of))


def _announce(output: Tensor, name: str, is_convolution: bool) -> Tensor:
    """Return ``output`` as it goes on; a ``Recorder`` sees this call as it sees those of torch's own functions."""
    if isinstance(output, Tensor) and has_torch_function_unary(output):
        announced: Tensor = handle_torch_function(_announce, (output,), output, name, is_convolution)
        return announced
    return output


class Recorder(TorchFunctionMode):
    """Within ``with``, keeps the feature maps that layers announce in this thread; autograd starts at the first ones.

    Nothing before these layers is kept for a backward pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maps: dict[str, Tensor] = {}
        self._convolutions: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func``; keep what a layer announces, and what its batch norm and activation make of it."""
        del types
        result = func(*args, **(kwargs or {}))
        if func is _announce:
            _, name, is_convolution = args
            self.maps[name] = result = result if result.requires_grad else _start_of_graph(result)
            self._convolutions |= {name} if is_convolution else set()
        elif func in FOLLOWS_A_CONVOLUTION:
            for name in self._convolutions:
                if self.maps[name] is args[0]:
                    self.maps[name] = result
        return result


def _start_of_graph(output: Tensor) -> Tensor:
    """Return ``output`` with a gradient. It is no leaf, so that a following layer may overwrite it."""
    return output + torch.zeros((), dtype=output.dtype, device=output.device, requires_grad=True)


def check_is_map(name: str, found: Tensor | None, height: int, width: int) -> None:
    """Raise ``UsageError`` where the layer ``name`` gave no feature map for an input of ``height x width``."""
    if found is None:
        raise UsageError(f"layer {name} takes no part in finding the class. Choose another: gwapctl models show.")
    shape = tuple(found.shape)
    stretch = (shape[3] * height) / (shape[2] * width) if found.ndim == 4 else 0
    if not 1 / MOST_STRETCHED < stretch < MOST_STRETCHED:
        raise UsageError(f"layer {name} gives {shape}, which is no feature map (B, K, h, w). Choose a convolution.")
