"""Named layers of well-known nets, and the suites made of them: a dozen for a quick look, and whole networks."""

from __future__ import annotations

from bench.layer import Layer
from bench.networks import CONV_NETWORKS, POOL_NETWORKS


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

POOLING = (
    Layer("ResNet-50 max 3×3/2", "max", 8, 64, 64, 112, 3, 2, 1),
    Layer("VGG-16 max 2×2/2", "max", 4, 64, 128, 112, 2, 2),
    Layer("Inception max 3×3/1", "max", 8, 64, 192, 28, 3, 1, 1),
    Layer("SPPF max 5×5/1", "max", 8, 64, 256, 20, 5, 1, 2),
    Layer("SPP max 13×13/1", "max", 8, 64, 256, 20, 13, 1, 6),
    Layer("DenseNet-121 avg 2×2/2", "average", 8, 64, 128, 56, 2, 2),
    Layer("Inception avg 3×3/1", "average", 8, 64, 192, 35, 3, 1, 1),
    Layer("ResNet-50 avg to 1", "adaptive average", 16, 64, 2048, 7, 1),
    Layer("SE avg to 1", "adaptive average", 8, 64, 96, 56, 1),
    Layer("VGG-16 avg to 7", "adaptive average", 16, 64, 512, 14, 7),
    Layer("PSPNet avg to 6", "adaptive average", 2, 16, 512, 60, 6),
    Layer("AlexNet avg 13 to 6", "adaptive average", 16, 64, 256, 13, 6),
    Layer("max 13 to 6", "adaptive max", 16, 64, 256, 13, 6),
    Layer("max to 1", "adaptive max", 16, 64, 512, 14, 1),
)

_NETWORKS = {name.lower(): (*layers, *POOL_NETWORKS.get(name, ())) for name, layers in CONV_NETWORKS.items()}
# Of all networks: one filter a channel; groups of several channels. A layer of two networks counts once.
_GROUPED = tuple(dict.fromkeys(layer for layers in CONV_NETWORKS.values() for layer in layers if layer.groups > 1))
_FAMILIES = {
    "depthwise": tuple(layer for layer in _GROUPED if layer.groups == layer.c),
    "grouped": tuple(layer for layer in _GROUPED if layer.groups < layer.c),
}
SUITES: dict[str, tuple[Layer, ...]] = {"quick": QUICK, "pooling": POOLING, **_NETWORKS, **_FAMILIES}


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
