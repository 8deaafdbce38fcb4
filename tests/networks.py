"""The layers of well-known networks (bench/networks.py) as cases of the kernels' tests, one sample each.

An emulator needs minutes for some, so :func:`reduced` takes less of the plane: channels and geometry stay.
"""

from __future__ import annotations

from dataclasses import replace

from shapes import ConvCase, PoolCase, conv, pool

from bench import networks
from bench.layer import Layer


def _conv_case(layer: Layer) -> ConvCase:
    size = (layer.size, layer.size)
    rest = (layer.kernel, layer.stride, layer.padding, layer.dilation, layer.groups)
    return conv(layer.name, 1, layer.c, layer.k, size, *rest)


def _pool_case(layer: Layer) -> PoolCase:
    size = (layer.size, layer.size)
    return pool(layer.name, layer.kind, 1, layer.c, size, layer.kernel, layer.stride, layer.padding)


CONV_NETWORKS = {name: tuple(map(_conv_case, layers)) for name, layers in networks.CONV_NETWORKS.items()}
POOL_NETWORKS = {name: tuple(map(_pool_case, layers)) for name, layers in networks.POOL_NETWORKS.items()}

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
