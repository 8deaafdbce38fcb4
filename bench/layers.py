"""Named layers of well-known nets, and the suites made of them. New layers are added here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """A square 2-D layer: a convolution, or a pooling where ``k`` is 0.

    ``n`` is the batch on the CPU, ``n_gpu`` the one on a GPU, which needs more work to fill it.
    """

    name: str
    kind: str  # conv, max or average
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
        return {"conv": "conv2d", "max": "max_pool2d", "average": "avg_pool2d"}[self.kind]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the function takes after its tensors."""
        if self.kind == "conv":
            return *([] if self.bias else [None]), self.stride, self.padding, self.dilation, self.groups
        return self.kernel, self.stride, self.padding, *([self.dilation] if self.kind == "max" else [])

    @property
    def shape(self) -> str:
        """In one line, for tables."""
        parts = [f"{self.n}×{self.c}×{self.size}²", f"{self.kernel}×{self.kernel}"]
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


def _conv(name: str, n: int, n_gpu: int, c: int, k: int, size: int, kernel: int, **options: int) -> Layer:
    options.setdefault("padding", options.get("dilation", 1) * (kernel // 2))
    return Layer(name, "conv", n, n_gpu, c, size, kernel, k=k, **options)


def _depthwise(name: str, n: int, n_gpu: int, c: int, size: int, kernel: int, **options: int) -> Layer:
    return _conv(name, n, n_gpu, c, c, size, kernel, groups=c, **options)


QUICK = (
    _conv("LeNet C1 5×5", 32, 1024, 1, 6, 32, 5, padding=0),
    _conv("LeNet C3 5×5", 32, 1024, 6, 16, 14, 5, padding=0),
    _conv("ResNet-50 stem 7×7/2", 2, 64, 3, 64, 224, 7, stride=2),
    _conv("ResNet-50 3×3", 4, 64, 64, 64, 56, 3),
    _conv("ResNet-50 1×1", 4, 64, 64, 256, 56, 1),
    _conv("ResNet-50 3×3/2", 4, 64, 128, 128, 56, 3, stride=2),
    _conv("VGG 3×3", 1, 32, 128, 128, 112, 3),
    _conv("ResNeXt grouped 3×3", 4, 64, 128, 128, 56, 3, groups=32),
    _conv("DeepLab dilated 3×3", 2, 32, 256, 256, 33, 3, dilation=6),
    _depthwise("MobileNet depthwise 3×3", 8, 64, 192, 56, 3),
    _depthwise("MobileNet depthwise 3×3/2", 8, 64, 144, 56, 3, stride=2),
    _depthwise("ConvNeXt depthwise 7×7", 8, 64, 96, 56, 7),
    Layer("max-pool 3×3/2", "max", 8, 64, 64, 112, 3, 2, 1),
    Layer("max-pool 2×2/2", "max", 8, 64, 64, 112, 2, 2),
    Layer("avg-pool 2×2/2", "average", 8, 64, 64, 112, 2, 2),
    Layer("avg-pool 3×3", "average", 8, 64, 64, 56, 3, 1, 1),
)

SUITES: dict[str, tuple[Layer, ...]] = {"quick": QUICK}


def select(suite: str, pattern: str = "") -> list[Layer]:
    """The layers of a suite whose names contain one of the comma-separated parts of ``pattern``, case ignored.

    Raises:
        ValueError: no layer does.
    """
    wanted = [part.strip().lower() for part in pattern.split(",") if part.strip()]
    chosen = [each for each in SUITES[suite] if not wanted or any(part in each.name.lower() for part in wanted)]
    if not chosen:
        names = ", ".join(each.name for each in SUITES[suite])
        raise ValueError(f"layers: nothing in suite {suite} matches {pattern!r}; it has {names}")
    return chosen
