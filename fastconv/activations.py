"""The activations that an epilogue may apply: the core's names for them, and PyTorch's operators that do the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """``name`` and ``slope`` are the core's (csrc/include/fastconv/activation.h).

    ``apply(v)`` is torch's, ``replace(v)`` the same in place where torch has that. ``backward(gy, y)`` gives the
    gradient of v from that of y = act(v) and y itself; None where y does not determine it.
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    replace: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor] | None = None
    slope: float = 0.0


def _leaky_relu(slope: float) -> Activation:
    return Activation(
        "leaky_relu",
        lambda v: F.leaky_relu(v, slope),
        lambda v: F.leaky_relu(v, slope, inplace=True),
        # Below zero y has v's sign only for a slope that is not negative.
        (lambda gy, y: _aten.leaky_relu_backward(gy, y, slope, True)) if slope >= 0 else None,
        slope,
    )


_FIXED = (
    Activation("none", lambda v: v, lambda v: v, lambda gy, y: gy),
    Activation("relu", torch.relu, torch.relu_, lambda gy, y: _aten.threshold_backward(gy, y, 0)),
    Activation(
        "relu6", F.relu6, lambda v: F.relu6(v, inplace=True), lambda gy, y: _aten.hardtanh_backward(gy, y, 0, 6)
    ),
    Activation("hardswish", F.hardswish, lambda v: F.hardswish(v, inplace=True)),
    Activation("silu", F.silu, lambda v: F.silu(v, inplace=True)),
    Activation("gelu", F.gelu, F.gelu),
    Activation("gelu_tanh", lambda v: F.gelu(v, approximate="tanh"), lambda v: F.gelu(v, approximate="tanh")),
)
_BY_NAME: dict[Any, Activation] = {each.name: each for each in _FIXED} | {None: _FIXED[0]}
NAMES = ("none", "relu", "relu6", "leaky_relu", "hardswish", "silu", "gelu", "gelu_tanh")

_leaky: dict[float, Activation] = {}


def activation_of(name: Any, negative_slope: float = 0.01) -> Activation:
    """The activation called ``name`` (None: none); one object for each.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    if name == "leaky_relu":
        return _leaky.setdefault(negative_slope, _leaky_relu(float(negative_slope)))
    if not (name is None or isinstance(name, str)) or name not in _BY_NAME:
        raise ValueError(f"activation: expected one of {', '.join(NAMES)}, or None, got {name!r}")
    return _BY_NAME[name]


def name_of_module(module: Any) -> tuple[str, float]:
    """The name and slope of torch's activation layer ``module``; of None and Identity "none".

    Raises:
        ValueError: an epilogue cannot apply it.
    """
    kinds = {
        type(None): "none",
        torch.nn.Identity: "none",
        torch.nn.ReLU: "relu",
        torch.nn.ReLU6: "relu6",
        torch.nn.LeakyReLU: "leaky_relu",
        torch.nn.Hardswish: "hardswish",
        torch.nn.SiLU: "silu",
        torch.nn.GELU: "gelu",
    }
    name = kinds.get(type(module))
    if name is None:
        known = ", ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise ValueError(f"activation: expected a layer of {known}, or None, got {module!r}")
    if name == "gelu" and module.approximate == "tanh":
        name = "gelu_tanh"
    return name, float(getattr(module, "negative_slope", 0.01))
