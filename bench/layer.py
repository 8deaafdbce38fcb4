"""One layer of a net, as the benchmark times it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """A square 2-D layer: a convolution, or a pooling where ``k`` is 0; ``kernel`` is an adaptive one's output size.

    ``n`` is the batch on the CPU, ``n_gpu`` the one on a GPU, which needs more work to fill it.
    """

    name: str
    kind: str  # conv, max, average, adaptive max or adaptive average
    n: int
    n_gpu: int
    c: int
    size: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    k: int = 0
    groups: int = 1
    bias: bool = False

    @property
    def function(self) -> str:
        """The name of the function in torch.nn.functional and fastconv.functional."""
        pool = {"max": "max_pool2d", "average": "avg_pool2d"}.get(self.kind.removeprefix("adaptive "), "conv2d")
        return f"adaptive_{pool}" if self.kind.startswith("adaptive") else pool

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the function takes after its tensors."""
        if self.kind == "conv":
            return *([] if self.bias else [None]), self.stride, self.padding, self.dilation, self.groups
        if self.kind.startswith("adaptive"):
            return (self.kernel,)
        return self.kernel, self.stride, self.padding, *([self.dilation] if self.kind == "max" else [])

    @property
    def shape(self) -> str:
        """In one line, for tables."""
        window = f"→{self.kernel}²" if self.kind.startswith("adaptive") else f"{self.kernel}×{self.kernel}"
        parts = [f"{self.n}×{self.c}×{self.size}²", window]
        parts += [f"→{self.k}"] if self.k else []
        optional = {"/": self.stride, " dilation ": self.dilation, " groups ": self.groups}
        options = "".join(f"{name}{value}" for name, value in optional.items() if value != 1)
        return " ".join(parts) + options + (" + bias" if self.bias else "")

    def tensors(self, device: str, dtype: torch.dtype, layout: str, seed: int = 0) -> list[Tensor]:
        """Random x, for a convolution w, and its bias if it has one, in ``layout`` nchw or nhwc; the same numbers."""
        generator = torch.Generator().manual_seed(seed)
        shapes = [(self.n, self.c, self.size, self.size)]
        if self.kind == "conv":
            shapes.append((self.k, self.c // self.groups, self.kernel, self.kernel))
        drawn = [torch.randn(shape, generator=generator) for shape in shapes]
        if self.kind == "conv":
            drawn[1] *= (self.c // self.groups * self.kernel**2) ** -0.5  # outputs of unit variance
        memory = torch.channels_last if layout == "nhwc" else torch.contiguous_format
        tensors = [each.to(device=device, dtype=dtype, memory_format=memory) for each in drawn]
        if self.kind == "conv" and self.bias:
            tensors.append(torch.randn(self.k, generator=generator).to(device=device, dtype=dtype))
        return tensors

    def with_batch(self, samples: int | None) -> Layer:
        """The layer with ``samples`` samples on any device, or as it is."""
        return replace(self, n=samples, n_gpu=samples) if samples else self

    def on(self, device: str, bias: bool = False) -> Layer:
        """The layer with the batch meant for ``device``; a convolution with a bias if asked."""
        return replace(self, n=self.n_gpu if device == "cuda" else self.n, bias=bias and self.kind == "conv")

    def small(self, channels: int = 32, size: int = 16) -> Layer:
        """Scaled down for the emulator: one sample, fewer channels (the same ones per group), a smaller image."""
        if self.groups > 1:
            per_group, k_per_group = self.c // self.groups, self.k // self.groups
            groups = max(1, channels // per_group)
            c, k = groups * per_group, groups * k_per_group
        else:
            groups, c, k = 1, min(self.c, channels), min(self.k, channels)
        reach = self.dilation * (self.kernel - 1) + 1
        return replace(self, n=1, c=c, k=k, groups=groups, size=min(self.size, max(size, reach)))
