"""The convolution and pooling layers of well-known networks, as they are: data only.

Every layer with its own channels, filter, stride, padding, dilation and groups is listed once, at the size that it
first has for the network's usual input. An emulator needs minutes for some, so :func:`reduced` takes less of the plane
(and one sample): channels and geometry stay.
"""

from __future__ import annotations

from dataclasses import replace

from shapes import ConvCase, PoolCase, conv, pool


def _conv(c: int, k: int, size: int, filter: int, stride: int = 1, padding: int | None = None, dilation: int = 1,
          groups: int = 1) -> ConvCase:  # fmt: skip
    """One sample of a square plane; padding as for a stride of 1 unless told."""
    low = dilation * (filter - 1) // 2 if padding is None else padding
    name = f"{filter}x{filter} {c}-{k} at {size}" + (f" stride {stride}" if stride > 1 else "")
    name += (f" dilation {dilation}" if dilation > 1 else "") + (f" groups {groups}" if groups > 1 else "")
    return conv(name, 1, c, k, (size, size), filter, stride, low, dilation, groups)


def _depthwise(c: int, size: int, filter: int, stride: int = 1) -> ConvCase:
    return _conv(c, c, size, filter, stride, groups=c)


def _transposed(c: int, k: int, size: int) -> ConvCase:
    """A 2x2 up-convolution from c to k channels is the dgrad of this."""
    return _conv(k, c, 2 * size, 2, 2, 0)


_RESNET_50 = (
    _conv(3, 64, 224, 7, 2),
    *(_conv(*each, 1) for each in ((64, 64, 56), (64, 256, 56), (256, 64, 56), (256, 128, 56), (128, 512, 28))),
    *(_conv(*each, 1) for each in ((512, 128, 28), (512, 256, 28), (256, 1024, 14), (1024, 256, 14))),
    *(_conv(*each, 1) for each in ((1024, 512, 14), (512, 2048, 7), (2048, 512, 7))),
    *(_conv(*each, 1, 2) for each in ((256, 512, 56), (512, 1024, 28), (1024, 2048, 14))),
    *(_conv(c, c, size, 3) for c, size in ((64, 56), (128, 28), (256, 14), (512, 7))),
    *(_conv(c, c, size, 3, 2) for c, size in ((128, 56), (256, 28), (512, 14))),
)

_VGG_16 = tuple(
    _conv(*each, 3)
    for each in (
        (3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56), (256, 512, 28),
        (512, 512, 28), (512, 512, 14),
    )
)  # fmt: skip

# Layer i of a block reads 32 i channels more than its first: the first, an odd one and the last of each block.
_DENSENET_121 = (
    *(
        _conv(c, 128, size, 1)
        for size, channels in ((56, (64, 96, 224)), (28, (128, 352, 480)), (14, (256, 608, 992)), (7, (512, 736, 992)))
        for c in channels
    ),
    *(_conv(128, 32, size, 3) for size in (56, 28, 14, 7)),
    *(_conv(c, c // 2, size, 1) for c, size in ((256, 56), (512, 28), (1024, 14))),
)

_EFFICIENTNET_B0 = (
    _conv(3, 32, 224, 3, 2),
    # Depthwise, expand, project.
    *(_depthwise(*each) for each in ((32, 112, 3), (96, 112, 3, 2), (144, 56, 3), (144, 56, 5, 2), (240, 28, 5))),
    *(_depthwise(*each) for each in ((240, 28, 3, 2), (480, 14, 3), (480, 14, 5), (672, 14, 5), (672, 14, 5, 2))),
    *(_depthwise(*each) for each in ((1152, 7, 5), (1152, 7, 3))),
    *(_conv(*each, 1) for each in ((16, 96, 112), (24, 144, 56), (40, 240, 28), (80, 480, 14), (112, 672, 14))),
    *(_conv(*each, 1) for each in ((192, 1152, 7), (320, 1280, 7))),
    *(_conv(*each, 1) for each in ((32, 16, 112), (96, 24, 56), (144, 24, 56), (144, 40, 28), (240, 40, 28))),
    *(_conv(*each, 1) for each in ((240, 80, 14), (480, 80, 14), (480, 112, 14), (672, 112, 14), (672, 192, 7))),
    *(_conv(*each, 1) for each in ((1152, 192, 7), (1152, 320, 7))),
    # Squeeze and excite, on one position.
    *(_conv(c, r, 1, 1) for c, r in ((32, 8), (96, 4), (144, 6), (240, 10), (480, 20), (672, 28), (1152, 48))),
    *(_conv(r, c, 1, 1) for c, r in ((32, 8), (96, 4), (144, 6), (240, 10), (480, 20), (672, 28), (1152, 48))),
)

_CONVNEXT_T = (
    _conv(3, 96, 224, 4, 4, 0),
    *(_depthwise(c, size, 7) for c, size in ((96, 56), (192, 28), (384, 14), (768, 7))),
    *(_conv(c, 2 * c, size, 2, 2, 0) for c, size in ((96, 56), (192, 28), (384, 14))),
    *(_conv(c, 4 * c, size, 1) for c, size in ((96, 56), (192, 28), (384, 14), (768, 7))),
    *(_conv(4 * c, c, size, 1) for c, size in ((96, 56), (192, 28), (384, 14), (768, 7))),
)

# Ronneberger 2015: no padding; up-convolutions are dgrads.
_U_NET = (
    *(_conv(*each, 3, 1, 0) for each in ((1, 64, 572), (64, 64, 570), (64, 128, 284), (128, 128, 282))),
    *(_conv(*each, 3, 1, 0) for each in ((128, 256, 140), (256, 256, 138), (256, 512, 68), (512, 512, 66))),
    *(_conv(*each, 3, 1, 0) for each in ((512, 1024, 32), (1024, 1024, 30), (1024, 512, 56), (512, 256, 104))),
    *(_conv(*each, 3, 1, 0) for each in ((256, 128, 200), (128, 64, 392))),
    *(_transposed(*each) for each in ((1024, 512, 28), (512, 256, 52), (256, 128, 100), (128, 64, 196))),
    _conv(64, 2, 388, 1),
)

# DeepLab v3 and v3+ at an output stride of 16, for 513x513: the dilated last stage, the pyramid, the decoder.
_DEEPLAB = (
    _conv(512, 512, 33, 3, dilation=2),
    _conv(2048, 256, 33, 1),
    *(_conv(2048, 256, 33, 3, dilation=rate) for rate in (6, 12, 18)),
    _conv(1280, 256, 33, 1),
    _conv(256, 256, 33, 3),
    _conv(256, 48, 129, 1),
    _conv(304, 256, 129, 3),
    _conv(256, 21, 129, 1),
)

CONV_NETWORKS = {
    "ResNet-50": _RESNET_50,
    "VGG-16": _VGG_16,
    "DenseNet-121": _DENSENET_121,
    "EfficientNet-B0": _EFFICIENTNET_B0,
    "ConvNeXt-T": _CONVNEXT_T,
    "U-Net": _U_NET,
    "DeepLab": _DEEPLAB,
}

POOL_NETWORKS = {
    "ResNet-50": (
        pool("stem", "max", 1, 64, (112, 112), 3, 2, 1),
        pool("global", "average", 1, 2048, (7, 7), 7),
    ),
    "VGG-16": tuple(
        pool(f"2x2 at {size}", "max", 1, c, (size, size), 2)
        for c, size in ((64, 224), (128, 112), (256, 56), (512, 28), (512, 14))
    ),
    "DenseNet-121": (
        *(pool(f"2x2 at {size}", "average", 1, c, (size, size), 2) for c, size in ((128, 56), (256, 28), (512, 14))),
        pool("global", "average", 1, 1024, (7, 7), 7),
    ),
    "U-Net": tuple(
        pool(f"2x2 at {size}", "max", 1, c, (size, size), 2)
        for c, size in ((64, 568), (128, 280), (256, 136), (512, 64))
    ),
    "EfficientNet-B0": (pool("global", "average", 1, 1280, (7, 7), 7),),
}

FLOPS = 2e7  # of a layer's pass, about: what an emulated tensor core takes some milliseconds for


def reduced(case: ConvCase) -> ConvCase:
    """Three rows and two columns of results and, of a dilated filter, two taps that meet; then as much more of the
    plane as FLOPS allow.
    """

    def least(axis: int, outputs: int, taps: bool) -> int:
        f, s, d = case.filter[axis], case.stride[axis], case.dilation[axis]
        size = (outputs - 1) * s + d * (f - 1) + 1 - case.padding_low[axis] - case.padding_high[axis]
        return min(case.input[axis], max(size, d + 1 if taps and f > 1 else 1))

    height, width = least(0, 3, True), least(1, 2, False)
    found = replace(case, input=(height, width))
    while True:
        larger = tuple(min(full, size + 2) for full, size in zip(case.input, found.input, strict=True))
        grown = replace(case, input=larger)
        if larger == found.input or grown.flops > FLOPS:
            return found
        found = grown


def reduced_pool(case: PoolCase) -> PoolCase:
    """At most 19 rows of 17 columns."""
    return replace(case, input=tuple(min(full, most) for full, most in zip(case.input, (19, 17), strict=True)))
