"""The convolution and pooling layers of well-known networks: data only, for the benchmark's suites and for the tests.

Every layer with its own channels, filter, stride, padding, dilation and groups is listed once, at the size that it
first has for the network's usual input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from bench.layer import Layer

BATCH_GPU = 32


def _conv(c: int, k: int, size: int, filter: int, stride: int = 1, padding: int | None = None, dilation: int = 1,
          groups: int = 1) -> Layer:  # fmt: skip
    """A square plane; padding as for a stride of 1 unless told. One sample on the CPU."""
    low = dilation * (filter - 1) // 2 if padding is None else padding
    name = f"{filter}x{filter} {c}-{k} at {size}" + (f" stride {stride}" if stride > 1 else "")
    name += (f" dilation {dilation}" if dilation > 1 else "") + (f" groups {groups}" if groups > 1 else "")
    return Layer(name, "conv", 1, BATCH_GPU, c, size, filter, stride, low, dilation, k, groups)


def _depthwise(c: int, size: int, filter: int, stride: int = 1, dilation: int = 1) -> Layer:
    return _conv(c, c, size, filter, stride, dilation=dilation, groups=c)


def _transposed(c: int, k: int, size: int) -> Layer:
    """A 2x2 up-convolution from c to k channels is the dgrad of this."""
    return _conv(k, c, 2 * size, 2, 2, 0)


def _pool(name: str, kind: str, c: int, size: int, window: int, stride: int | None = None, padding: int = 0) -> Layer:
    return Layer(f"{kind} {name}", kind, 1, BATCH_GPU, c, size, window, stride or window, padding)


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


def _efficientnet_depthwise(width: float, depth: float, size: int) -> Iterator[Layer]:
    """Compound scaling (Tan and Le 2019): B0's stages, wider, deeper and larger. torchvision rounds channels to the
    nearest multiple of 8 that is no less than 90 %, and the number of layers up.
    """

    def channels(of_b0: int) -> int:
        wanted = of_b0 * width
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * wanted else rounded + 8

    size, c = -(-size // 2), channels(32)
    stages = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
    )
    for expand, filter, stride, out, layers in (*stages, (6, 3, 1, 320, 1)):
        for i in range(math.ceil(layers * depth)):
            step = stride if i == 0 else 1
            yield _depthwise(c * expand, size, filter, step)
            size, c = -(-size // step), channels(out)


# Width, depth and input size of B1 to B7.
_EFFICIENTNETS = (
    (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 300), (1.4, 1.8, 380), (1.6, 2.2, 456), (1.8, 2.6, 528),
    (2.0, 3.1, 600),
)  # fmt: skip
_EFFICIENTNET_B1_B7 = tuple(dict.fromkeys(layer for each in _EFFICIENTNETS for layer in _efficientnet_depthwise(*each)))

_CONVNEXT_T = (
    _conv(3, 96, 224, 4, 4, 0),
    *(_depthwise(c, size, 7) for c, size in ((96, 56), (192, 28), (384, 14), (768, 7))),
    *(_conv(c, 2 * c, size, 2, 2, 0) for c, size in ((96, 56), (192, 28), (384, 14))),
    *(_conv(c, 4 * c, size, 1) for c, size in ((96, 56), (192, 28), (384, 14), (768, 7))),
    *(_conv(4 * c, c, size, 1) for c, size in ((96, 56), (192, 28), (384, 14), (768, 7))),
)

# The depthwise and grouped layers alone of four more: their pointwise ones are like those above.
_MOBILENET_V2 = tuple(
    _depthwise(*each)
    for each in (
        (32, 112, 3), (96, 112, 3, 2), (144, 56, 3), (144, 56, 3, 2), (192, 28, 3), (192, 28, 3, 2), (384, 14, 3),
        (576, 14, 3), (576, 14, 3, 2), (960, 7, 3),
    )
)  # fmt: skip

# RepLKNet-31B: each large filter, and the 5x5 that is trained beside it.
_REPLKNET_31 = tuple(
    _depthwise(c, size, filter) for c, size, large in ((128, 56, 31), (256, 28, 29), (512, 14, 27), (1024, 7, 13))
    for filter in (large, 5)
)  # fmt: skip

# 32 groups of 4 channels, and of 8 (as in the 101 layers of 32x8d).
_RESNEXT = tuple(
    _conv(each * c, each * c, size, 3, stride, groups=32)
    for each in (1, 2)
    for c, size, stride in ((128, 56, 1), (256, 56, 2), (256, 28, 1), (512, 28, 2), (512, 14, 1), (1024, 14, 2),
                            (1024, 7, 1))
)  # fmt: skip

# Ronneberger 2015: no padding; up-convolutions are dgrads.
_U_NET = (
    *(_conv(*each, 3, 1, 0) for each in ((1, 64, 572), (64, 64, 570), (64, 128, 284), (128, 128, 282))),
    *(_conv(*each, 3, 1, 0) for each in ((128, 256, 140), (256, 256, 138), (256, 512, 68), (512, 512, 66))),
    *(_conv(*each, 3, 1, 0) for each in ((512, 1024, 32), (1024, 1024, 30), (1024, 512, 56), (512, 256, 104))),
    *(_conv(*each, 3, 1, 0) for each in ((256, 128, 200), (128, 64, 392))),
    *(_transposed(*each) for each in ((1024, 512, 28), (512, 256, 52), (256, 128, 100), (128, 64, 196))),
    _conv(64, 2, 388, 1),
)

# DeepLab v3 and v3+ at an output stride of 16, for 513x513: the dilated last stage, the pyramid, the decoder; then the
# separable ones of v3+ on Xception, and the last stage of v3 on MobileNetV3.
_DEEPLAB = (
    _conv(512, 512, 33, 3, dilation=2),
    _conv(2048, 256, 33, 1),
    *(_conv(2048, 256, 33, 3, dilation=rate) for rate in (6, 12, 18)),
    _conv(1280, 256, 33, 1),
    _conv(256, 256, 33, 3),
    _conv(256, 48, 129, 1),
    _conv(304, 256, 129, 3),
    _conv(256, 21, 129, 1),
    *(_depthwise(2048, 33, 3, dilation=rate) for rate in (6, 12, 18)),
    *(_depthwise(c, 129, 3) for c in (304, 256)),
    _depthwise(960, 33, 5, dilation=2),
)

CONV_NETWORKS = {
    "ResNet-50": _RESNET_50,
    "VGG-16": _VGG_16,
    "DenseNet-121": _DENSENET_121,
    "EfficientNet-B0": _EFFICIENTNET_B0,
    "EfficientNet-B1-B7": _EFFICIENTNET_B1_B7,
    "ConvNeXt-T": _CONVNEXT_T,
    "MobileNetV2": _MOBILENET_V2,
    "RepLKNet-31": _REPLKNET_31,
    "ResNeXt": _RESNEXT,
    "U-Net": _U_NET,
    "DeepLab": _DEEPLAB,
}

POOL_NETWORKS = {
    "ResNet-50": (_pool("stem", "max", 64, 112, 3, 2, 1), _pool("global", "average", 2048, 7, 7)),
    "VGG-16": tuple(
        _pool(f"2x2 at {size}", "max", c, size, 2)
        for c, size in ((64, 224), (128, 112), (256, 56), (512, 28), (512, 14))
    ),
    "DenseNet-121": (
        *(_pool(f"2x2 at {size}", "average", c, size, 2) for c, size in ((128, 56), (256, 28), (512, 14))),
        _pool("global", "average", 1024, 7, 7),
    ),
    "U-Net": tuple(
        _pool(f"2x2 at {size}", "max", c, size, 2) for c, size in ((64, 568), (128, 280), (256, 136), (512, 64))
    ),
    "EfficientNet-B0": (_pool("global", "average", 1280, 7, 7),),
}
