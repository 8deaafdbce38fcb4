"""One layer, one pass, one layout: the two rival calls, which kernels ours runs, and how far both are from float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

import fastconv
from bench.layers import Layer

#: pass -> which of (x, w, bias) get a gradient; "forward" records none, "gx" and "gw" are parts of "backward"
PASSES = {"forward": (False,) * 3, "backward": (True,) * 3, "gx": (True, False, False), "gw": (False, True, False)}
LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class Case:
    """A measurement to make. ``exists`` is false for the weight gradient of a layer without weights."""

    layer: Layer
    pass_: str
    layout: str
    dtype: str
    device: str

    @property
    def exists(self) -> bool:
        """Pooling has no weight: its "gw" does not exist and its "gx" is its "backward"."""
        return self.layer.kind == "conv" or self.pass_ in ("forward", "backward")

    @property
    def kernel_passes(self) -> list[str]:
        """The passes of the planner that this one runs."""
        if self.pass_ == "forward":
            return ["fprop"]
        every = ["dgrad"] + ["wgrad"] * (self.layer.kind == "conv") + ["bgrad"] * self.layer.bias
        return {"backward": every, "gx": ["dgrad"], "gw": ["wgrad"]}[self.pass_]

    def tensors(self, dtype: torch.dtype | None = None) -> list[Tensor]:
        """x (, w and the bias) as leaves that require the gradients of this pass."""
        drawn = self.layer.tensors(self.device, getattr(torch, self.dtype), self.layout)
        if dtype is not None:
            drawn = [each.to(dtype) for each in drawn]
        needed = PASSES[self.pass_]
        return [each.requires_grad_(need) for each, need in zip(drawn, needed, strict=False)]

    def call(self, functional: Any, dtype: torch.dtype | None = None) -> Callable[[], tuple[Tensor, ...]]:
        """What is timed, by ``functional`` (torch.nn's or fastconv's): it returns y, or the gradients.

        A backward pass differentiates one forward again and again, so that only the backward is timed.
        """
        tensors = self.tensors(dtype)
        function = getattr(functional, self.layer.function)
        if self.pass_ == "forward":

            def forward() -> tuple[Tensor, ...]:
                with torch.no_grad():
                    return (function(*tensors, *self.layer.arguments),)

            return forward
        y = function(*tensors, *self.layer.arguments)
        generator = torch.Generator().manual_seed(1)
        gy = torch.empty_like(y, requires_grad=False)
        gy.copy_(torch.randn(y.shape, generator=generator).to(getattr(torch, self.dtype)))
        leaves = [each for each in tensors if each.requires_grad]
        return lambda: torch.autograd.grad(y, leaves, gy, retain_graph=True)

    def plans(self) -> list[Any]:
        """fastconv's plans of this case, under the settings in force."""
        tensors = self.tensors()
        return [
            fastconv.plan(self.layer.function, *tensors, *self.layer.arguments, pass_=each)
            for each in self.kernel_passes
        ]

    def errors(self, *calls: Callable[[], tuple[Tensor, ...]]) -> list[float]:
        """Each call's largest error against torch in float64, relative to the largest value of the result."""
        truth = [each.detach() for each in self.call(torch_functional, torch.float64)()]
        return [max(_error(value, exact) for value, exact in zip(call(), truth, strict=True)) for call in calls]


def _error(value: Tensor, exact: Tensor) -> float:
    return ((value.detach().double() - exact).abs().max() / exact.abs().max()).item()
