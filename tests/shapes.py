"""Named shape suites, data only: what every conv and pool test draws its problems from.

- ``default``: small and odd; each case is here because some indexing mistake shows in it and in few others.
- ``rigorous``: default, plus prime and even sizes crossed with every option; small, because the emulator computes some
  0.2 GFLOP/s.
- ``network``: layers of well-known networks; sizes, channels or batch scaled down so that an emulator can run them.

Sizes are torch's: per spatial axis, outermost first. ``padding`` is one number per axis, or a (low, high) pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction


@dataclass(frozen=True)
class ConvCase:
    """One convolution; rank is ``len(input)``."""

    name: str
    n: int
    c: int
    k: int
    input: tuple[int, ...]
    filter: tuple[int, ...]
    stride: tuple[int, ...]
    padding_low: tuple[int, ...]
    padding_high: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def output(self) -> tuple[int, ...]:
        """Spatial size of the output (as torch: every window inside the padded input)."""
        return tuple(
            (i + lo + hi - d * (f - 1) - 1) // s + 1
            for i, lo, hi, f, s, d in zip(
                self.input, self.padding_low, self.padding_high, self.filter, self.stride, self.dilation, strict=True
            )
        )

    @property
    def flops(self) -> float:
        """Multiply-adds counted twice; the same for every pass."""
        total = 2.0 * self.n * self.k * (self.c // self.groups)
        for size in (*self.output, *self.filter):
            total *= size
        return total

    def arguments(self, dtype: str, layout: str) -> dict[str, object]:
        """Keyword arguments of a backend's ``ConvProblem``."""
        return {
            "n": self.n,
            "c": self.c,
            "k": self.k,
            "input": list(self.input),
            "filter": list(self.filter),
            "stride": list(self.stride),
            "padding": list(self.padding_low),
            "padding_high": list(self.padding_high),
            "dilation": list(self.dilation),
            "groups": self.groups,
            "dtype": dtype,
            "layout": layout,
        }


@dataclass(frozen=True)
class PoolCase:
    """One pooling; rank is ``len(input)``. ``dilation`` is for max, the two options after ceil_mode for
    average pooling.

    ``adaptive`` is the output of adaptive pooling; ``window`` is then its widest window.
    """

    name: str
    kind: str
    n: int
    c: int
    input: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None
    adaptive: tuple[int, ...] | None = None

    def origin(self, axis: int, o: int) -> int:
        """Where window ``o`` begins on an axis."""
        if self.adaptive:
            return math.floor(Fraction(o * self.input[axis], self.adaptive[axis]))
        return o * self.stride[axis] - self.padding[axis]

    def arguments(self, dtype: str, layout: str) -> dict[str, object]:
        """Keyword arguments of a backend's ``PoolProblem``."""
        if self.adaptive:
            sizes = {"input": list(self.input), "adaptive_output": list(self.adaptive)}
            return {"kind": self.kind, "n": self.n, "c": self.c, **sizes, "dtype": dtype, "layout": layout}
        return {
            "kind": self.kind,
            "n": self.n,
            "c": self.c,
            "input": list(self.input),
            "window": list(self.window),
            "stride": list(self.stride),
            "padding": list(self.padding),
            "dilation": list(self.dilation),
            "ceil_mode": self.ceil_mode,
            "count_include_pad": self.count_include_pad,
            "divisor_override": self.divisor_override,
            "dtype": dtype,
            "layout": layout,
        }


Axis = int | Sequence[int]


def _axes(value: Axis, rank: int) -> tuple[int, ...]:
    axes = (value,) * rank if isinstance(value, int) else tuple(value)
    assert len(axes) == rank, (value, rank)
    return axes


def conv(
    name: str,
    n: int,
    c: int,
    k: int,
    input: Sequence[int],
    filter: Axis,
    stride: Axis = 1,
    padding: int | Sequence[int | tuple[int, int]] = 0,
    dilation: Axis = 1,
    groups: int = 1,
) -> ConvCase:
    """A ConvCase from numbers or per-axis sequences; a padding entry may be a (low, high) pair."""
    rank = len(input)
    pads = [padding] * rank if isinstance(padding, int) else list(padding)
    pairs = [(p, p) if isinstance(p, int) else p for p in pads]
    return ConvCase(
        name=name,
        n=n,
        c=c,
        k=k,
        input=tuple(input),
        filter=_axes(filter, rank),
        stride=_axes(stride, rank),
        padding_low=tuple(low for low, _ in pairs),
        padding_high=tuple(high for _, high in pairs),
        dilation=_axes(dilation, rank),
        groups=groups,
    )


def depthwise(name: str, n: int, c: int, size: tuple[int, ...], *geometry: object) -> ConvCase:
    """One channel a group. Filter, stride, padding, dilation follow the input's size."""
    geometry = (*geometry, *(1, 0, 1)[len(geometry) - 1 :])
    return conv(name, n, c, c, size, *geometry, c)  # type: ignore[arg-type]


def several(filters: int, case: ConvCase) -> ConvCase:
    """The case with so many filters for each channel."""
    return replace(case, k=case.c * filters)


def pool(
    name: str,
    kind: str,
    n: int,
    c: int,
    input: Sequence[int],
    window: Axis,
    stride: Axis | None = None,
    padding: Axis = 0,
    dilation: Axis = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> PoolCase:
    """A PoolCase from numbers or per-axis sequences; the stride defaults to the window, as in torch."""
    rank = len(input)
    return PoolCase(
        name=name,
        kind=kind,
        n=n,
        c=c,
        input=tuple(input),
        window=_axes(window, rank),
        stride=_axes(window if stride is None else stride, rank),
        padding=_axes(padding, rank),
        dilation=_axes(dilation, rank),
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )


def adaptive(name: str, kind: str, n: int, c: int, input: Sequence[int], output: Axis) -> PoolCase:
    """A PoolCase of adaptive pooling; the widest window by torch's definition."""
    rank = len(input)
    output = _axes(output, rank)
    window = tuple(
        max(math.ceil(Fraction((o + 1) * i, out)) - math.floor(Fraction(o * i, out)) for o in range(out))
        for i, out in zip(input, output, strict=True)
    )
    return replace(pool(name, kind, n, c, input, window), adaptive=output)


# name, n, c, k, input, filter, stride, padding, dilation, groups
CONV_DEFAULT = (
    conv("one element", 1, 1, 1, (1, 1), 1),
    conv("1x1", 2, 7, 5, (5, 7), 1),
    conv("1x1 stride 2", 2, 5, 9, (7, 6), 1, 2),
    conv("3x3 same", 2, 3, 5, (7, 9), 3, 1, 1),
    conv("filter is the input", 3, 4, 6, (4, 5), (4, 5)),
    conv("kernel equals stride", 2, 3, 4, (9, 6), 3, 3),
    conv("kernel below stride", 2, 3, 4, (11, 9), 2, 3),
    conv("padding beyond the filter", 1, 2, 3, (4, 5), 2, 1, 3),
    conv("everything asymmetric", 2, 3, 5, (13, 11), (3, 2), (2, 3), ((1, 2), (0, 1)), (1, 2)),
    conv("one-sided padding", 2, 3, 4, (8, 7), 3, 2, ((2, 0), (0, 2))),
    conv("dilation beyond the input", 1, 2, 3, (3, 4), 3, 1, 5, 5),
    conv("LeNet c1", 2, 1, 6, (12, 12), 5, 1, 2),
    conv("groups", 2, 6, 9, (7, 5), 3, 1, 1, 1, 3),
    conv("depthwise", 2, 7, 7, (9, 8), 3, 1, 1, 1, 7),
    conv("depthwise multiplier 2", 2, 5, 10, (7, 7), 3, 2, 1, 1, 5),
    conv("prime channels", 1, 17, 19, (5, 6), 3, 1, 1),
    conv("aligned", 2, 16, 32, (8, 8), 3, 1, 1),
    conv("wide row", 1, 3, 4, (1, 67), (1, 5), 1, (0, 2)),
    conv("tall column", 1, 3, 4, (61, 1), (5, 1), (2, 1), (1, 0)),
    conv("conv1d", 2, 5, 7, (23,), 4, 2, ((1, 2),), 2),
    conv("conv1d same", 2, 4, 6, (19,), 5, 1, 2),
    conv("conv1d grouped", 2, 6, 4, (14,), 3, 3, 1, 1, 2),
    conv("conv3d patches", 2, 3, 8, (4, 6, 6), (2, 3, 3), (2, 3, 3)),
    conv("conv3d same", 1, 3, 4, (4, 5, 6), 3, 1, 1),
    conv("conv3d depthwise", 1, 4, 4, (3, 5, 4), (1, 3, 3), (1, 2, 1), (0, 1, 1), 1, 4),
    conv("conv3d", 1, 3, 4, (5, 4, 6), (2, 3, 2), (1, 2, 1), ((1, 0), (1, 1), (0, 1)), (2, 1, 1)),
)

CONV_RIGOROUS = (
    *CONV_DEFAULT,
    *(
        conv(f"{f}x{f} stride {s} padding {p} dilation {d}", 2, 3, 5, (11, 13), f, s, p, d)
        for f in (1, 2, 3, 5)
        for s in (1, 2, 3)
        for p in (0, 1, 2)
        for d in (1, 2)
    ),
    *(
        conv(f"groups {g} C{c} K{k} {f}x{f} stride {s}", 2, c, k, (7, 6), f, s, 1, 1, g)
        for g, c, k in ((2, 4, 6), (3, 9, 6), (4, 32, 16), (11, 11, 11), (8, 8, 24), (16, 32, 32))
        for f, s in ((1, 1), (3, 1), (3, 2))
    ),
    *(
        conv(f"C{c} K{k}", 1, c, k, (6, 7), 3, 1, 1)
        for c, k in ((1, 1), (1, 33), (31, 3), (64, 65), (65, 16), (8, 129), (512, 16), (16, 512))
    ),
    *(
        conv(f"input {h}x{w}", 3, 2, 3, (h, w), 3, 1, 1)
        for h, w in ((1, 1), (1, 2), (2, 1), (31, 2), (2, 37), (17, 16))
    ),
    # Every channel count up to a vector, and one beside a tile's; primes; nothing the same on two axes.
    *(
        conv(f"C{c} K{k} at {h}x{w}", 1, c, k, (h, w), (3, 2), (2, 1), ((1, 0), (0, 2)), (1, 2))
        for c, k, h, w in (
            (1, 9, 13, 7), (2, 8, 11, 5), (3, 7, 7, 13), (4, 6, 5, 11), (5, 5, 17, 3), (6, 4, 3, 17), (7, 3, 7, 7),
            (8, 2, 11, 11), (9, 1, 13, 5), (31, 33, 5, 7), (33, 31, 7, 5), (127, 2, 5, 7), (3, 127, 7, 5),
            (130, 5, 5, 5), (4, 130, 7, 3),
        )
    ),
    conv("7x7 stride 2", 1, 3, 16, (23, 21), 7, 2, 3),
    conv("depthwise 7x7", 1, 6, 6, (15, 14), 7, 1, 3, 1, 6),
    conv("depthwise 13x1 dilated", 1, 4, 4, (31, 5), (13, 1), 1, (12, 0), (2, 1), 4),
    conv("stride beyond the input", 2, 3, 4, (5, 6), 3, 9, 1),
    conv("asymmetric same, even filter", 2, 4, 4, (9, 10), 4, 1, ((1, 2), (1, 2))),
    conv("batch 33", 33, 2, 3, (5, 3), 3, 1, 1),
    conv("conv1d grouped", 3, 8, 12, (37,), 5, 3, 2, 2, 4),
    conv("conv1d wide", 1, 2, 3, (301,), 9, 1, 4),
    conv("conv3d grouped", 2, 4, 6, (3, 5, 4), 3, (2, 1, 2), 1, 1, 2),
    conv("conv3d depthwise", 1, 5, 5, (4, 6, 5), (3, 3, 2), 1, (1, 1, 0), (1, 2, 1), 5),
)  # fmt: skip

CONV_NETWORK = (
    conv("LeNet-5 c1", 4, 1, 6, (28, 28), 5, 1, 2),
    conv("LeNet-5 c3", 4, 6, 16, (14, 14), 5),
    conv("AlexNet conv1", 1, 3, 16, (63, 63), 11, 4, 2),
    conv("VGG-16 conv1_1", 1, 3, 16, (28, 28), 3, 1, 1),
    conv("VGG-16 conv3_2", 1, 32, 32, (14, 14), 3, 1, 1),
    conv("ResNet-50 stem", 1, 3, 16, (56, 56), 7, 2, 3),
    conv("ResNet-50 1x1 reduce", 1, 64, 16, (14, 14), 1),
    conv("ResNet-50 1x1 expand", 1, 16, 64, (14, 14), 1),
    conv("ResNet-50 3x3", 1, 32, 32, (14, 14), 3, 1, 1),
    conv("ResNet-50 3x3 stride 2", 1, 32, 32, (14, 14), 3, 2, 1),
    conv("ResNet-50 1x1 stride 2", 1, 32, 64, (14, 14), 1, 2),
    conv("ResNeXt-50 3x3 groups 8", 1, 32, 32, (14, 14), 3, 1, 1, 1, 8),
    conv("MobileNetV2 dw 3x3", 1, 48, 48, (14, 14), 3, 1, 1, 1, 48),
    conv("MobileNetV2 dw 3x3 stride 2", 1, 48, 48, (14, 14), 3, 2, 1, 1, 48),
    conv("EfficientNet dw 5x5 stride 2", 1, 24, 24, (28, 28), 5, 2, 2, 1, 24),
    conv("ConvNeXt dw 7x7", 1, 24, 24, (14, 14), 7, 1, 3, 1, 24),
    conv("ConvNeXt patchify", 1, 3, 24, (32, 32), 4, 4),
    conv("ViT patchify", 1, 3, 32, (48, 48), 16, 16),
    conv("Inception 1x7", 1, 24, 24, (9, 9), (1, 7), 1, (0, 3)),
    conv("DeepLab aspp rate 6", 1, 16, 16, (17, 17), 3, 1, 6, 6),
    conv("DeepLab aspp rate 18", 1, 16, 16, (17, 17), 3, 1, 18, 18),
    conv("UNet 3x3 valid", 1, 16, 16, (30, 30), 3),
    conv("WaveNet dilated", 2, 16, 32, (128,), 2, 1, ((16, 0),), 16),
    conv("C3D 3x3x3", 1, 8, 16, (4, 10, 10), 3, 1, 1),
)


def _pools(name: str, *rest: object, **options: object) -> tuple[PoolCase, PoolCase]:
    """The same geometry as a max and as an average pooling."""
    return pool(f"max {name}", "max", *rest, **options), pool(f"average {name}", "average", *rest, **options)


def _adaptives(name: str, *rest: object) -> tuple[PoolCase, PoolCase]:
    return adaptive(f"adaptive max {name}", "max", *rest), adaptive(f"adaptive average {name}", "average", *rest)


POOL_DEFAULT = (
    *_pools("one element", 1, 1, (1, 1), 1),
    *_pools("2x2", 2, 5, (8, 6), 2),
    *_pools("2x2 ragged", 2, 3, (7, 9), 2),
    *_pools("2x2 ragged ceil", 2, 3, (7, 9), 2, ceil_mode=True),
    *_pools("3x3 stride 2 padding 1", 2, 7, (11, 9), 3, 2, 1),
    *_pools("3x3 stride 2 padding 1 ceil", 2, 7, (10, 9), 3, 2, 1, ceil_mode=True),
    *_pools("3x2 overlapping", 1, 3, (9, 8), (3, 2), (1, 1), (1, 0)),
    *_pools("stride beyond the window", 2, 3, (11, 13), 2, 3),
    *_pools("global", 3, 5, (7, 6), (7, 6)),
    *_pools("aligned", 2, 16, (16, 16), 2),
    *_pools("1d", 2, 3, (23,), 3, 2, 1, ceil_mode=True),
    *_pools("3d", 1, 3, (5, 6, 7), (2, 3, 2), (2, 1, 2), (1, 1, 0)),
    pool("max dilated", "max", 2, 3, (11, 12), 3, 2, 1, 2),
    pool("max dilated asymmetric", "max", 1, 4, (13, 9), (2, 3), (1, 2), (1, 1), (3, 2), ceil_mode=True),
    pool("max window of 256 taps", "max", 1, 2, (17, 18), 16, 1),
    pool("max window of 17x17", "max", 1, 2, (19, 21), 17, 2, 8),
    pool("average without padding in the count", "average", 2, 3, (9, 7), 3, 2, 1, count_include_pad=False),
    pool("average without padding, ceil", "average", 2, 3, (10, 8), 3, 2, 1, 1, True, False),
    pool("average divisor 3", "average", 2, 3, (8, 9), (2, 3), 2, (1, 1), 1, True, True, 3),
    *_adaptives("to one", 2, 5, (7, 6), 1),
    *_adaptives("that divides", 2, 3, (8, 6), (4, 2)),
    *_adaptives("7x9 to 3x4", 2, 5, (7, 9), (3, 4)),
    *_adaptives("aligned 13x12 to 6x12", 1, 16, (13, 12), (6, 12)),
    *_adaptives("up, 3x5 to 7x6", 2, 3, (3, 5), (7, 6)),
    *_adaptives("1d", 2, 3, (23,), 5),
    *_adaptives("3d", 1, 3, (5, 6, 7), (2, 3, 4)),
)

POOL_RIGOROUS = (
    *POOL_DEFAULT,
    *(
        case
        for window in (1, 2, 3, 5)
        for stride in (1, 2, 3)
        for padding in sorted({0, window // 2})
        for ceil_mode in (False, True)
        for case in _pools(
            f"{window}x{window} stride {stride} padding {padding} ceil {ceil_mode}",
            2, 3, (11, 12), window, stride, padding, ceil_mode=ceil_mode,
        )
    ),
    *(
        replace(case, name=case.name + " exclude padding", count_include_pad=False)
        for case in (
            pool("average 3x3 stride 1", "average", 2, 3, (7, 8), 3, 1, 1),
            pool("average 4x5 stride 3 ceil", "average", 2, 3, (10, 14), (4, 5), 3, 2, 1, True),
        )
    ),
    *(pool(f"max dilation {d} stride {s}", "max", 1, 3, (14, 15), 3, s, 1, d) for d in (2, 3, 5) for s in (1, 2, 3)),
    *(case for c in (1, 31, 32, 33) for case in _pools(f"C{c}", 1, c, (6, 7), 3, 2, 1)),
    *(case for w in (1, 2, 31, 64, 65) for case in _pools(f"width {w}", 2, 2, (3, w), (3, 1), (2, 1), (1, 0))),
    *(
        case
        for i, o in ((1, 1), (1, 4), (2, 3), (5, 2), (7, 7), (9, 4), (12, 5), (13, 12), (31, 6), (64, 5))
        for case in _adaptives(f"{i} to {o}", 2, 9, (i, 7), (o, 3))
    ),
    *_adaptives("window of 22x20", 1, 9, (65, 59), 3),
    *_pools("global of six", 3, 5, (2, 3), (2, 3)),
    *_pools("global 19x23", 2, 9, (19, 23), (19, 23)),
    *_pools("global 3d", 1, 9, (5, 3, 7), (5, 3, 7)),
    *_pools("2x2 of many planes", 3, 11, (14, 10), 2),
    *_pools("1d wide", 2, 3, (257,), 4, 3, 2),
    *_pools("3d ceil", 2, 3, (7, 6, 5), 3, 2, 1, ceil_mode=True),
)  # fmt: skip

POOL_NETWORK = (
    *_pools("LeNet-5 s2", 4, 6, (28, 28), 2),
    *_pools("AlexNet 3x3 stride 2", 1, 16, (27, 27), 3, 2),
    *_pools("ResNet stem", 1, 16, (56, 56), 3, 2, 1),
    *_pools("VGG 2x2", 1, 16, (28, 28), 2),
    *_pools("Inception 3x3 stride 1", 1, 16, (17, 17), 3, 1, 1),
    *_pools("YOLO SPP 13x13", 1, 8, (13, 13), 13, 1, 6),
    *_pools("SqueezeNet ceil", 1, 16, (27, 27), 3, 2, ceil_mode=True),
    *_pools("global 7x7", 2, 64, (7, 7), 7),
    *_pools("global 16x16", 2, 16, (16, 16), 16),
    *_adaptives("AlexNet 13x13 to 6x6", 1, 16, (13, 13), 6),
    *_adaptives("PSPNet 20x20 to 6x6", 1, 16, (20, 20), 6),
)

CONV_SUITES = {"default": CONV_DEFAULT, "rigorous": CONV_RIGOROUS, "network": CONV_NETWORK}
POOL_SUITES = {"default": POOL_DEFAULT, "rigorous": POOL_RIGOROUS, "network": POOL_NETWORK}
