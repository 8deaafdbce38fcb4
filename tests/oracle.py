"""Convolution by its definition, in numpy's longdouble: the oracle of every test that compares random values.

Not torch's float64, whose own rounding errors are as large as ours in float64. Where longdouble is no wider than double
(some platforms), nor is this oracle. A pass is the sum over the window's taps of one product of matrices each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from shapes import ConvCase

Array = np.ndarray
Tap = tuple[tuple[int, ...], tuple[slice, ...]]


def fprop(case: ConvCase, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """y[n, k] = bias[k] + sum over c and taps of x[n, c] * w[k, c]."""
    padded, filters = _pad(case, _grouped(case, x, 1)), _grouped(case, w, 0)
    y = np.zeros((case.n, case.groups, case.k // case.groups, *case.output), np.longdouble)
    for tap, window in _taps(case):
        y += np.einsum("ngc...,gkc->ngk...", padded[(..., *window)], filters[(..., *tap)])
    y = y.reshape(case.n, case.k, *case.output)
    if bias is not None:
        y += _wide(bias).reshape(-1, *[1] * len(case.input))
    return _double(y)


def dgrad(case: ConvCase, gy: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """gx: what fprop's x receives from gy."""
    outer, filters = _grouped(case, gy, 1), _grouped(case, w, 0)
    padded = _pad(case, np.zeros((case.n, case.groups, case.c // case.groups, *case.input), np.longdouble))
    for tap, window in _taps(case):
        padded[(..., *window)] += np.einsum("ngk...,gkc->ngc...", outer, filters[(..., *tap)])
    inside = tuple(slice(low, low + size) for low, size in zip(case.padding_low, case.input, strict=True))
    return _double(padded[(..., *inside)].reshape(case.n, case.c, *case.input))


def wgrad(case: ConvCase, x: torch.Tensor, gy: torch.Tensor) -> torch.Tensor:
    """gw: what fprop's w receives from gy."""
    padded, outer = _pad(case, _grouped(case, x, 1)), _grouped(case, gy, 1)
    gw = np.zeros((case.groups, case.k // case.groups, case.c // case.groups, *case.filter), np.longdouble)
    flat = outer.reshape(*outer.shape[:3], -1)
    for tap, window in _taps(case):
        gw[(..., *tap)] = np.einsum("ngkp,ngcp->gkc", flat, padded[(..., *window)].reshape(*padded.shape[:3], -1))
    return _double(gw.reshape(case.k, case.c // case.groups, *case.filter))


def bgrad(gy: torch.Tensor) -> torch.Tensor:
    """gb[k]: the sum of gy over samples and positions."""
    return _double(_wide(gy).sum(axis=(0, *range(2, gy.dim()))))


def ffma(case: ConvCase, pass_: str, x: torch.Tensor, w: torch.Tensor, gy: torch.Tensor) -> torch.Tensor:
    """A pass, without bias, as one chain of float32 multiply-adds for each result: what CUDA cores do unaided."""
    xs, ws, gs = (_grouped(case, each, axis).astype(np.float32) for each, axis in ((x, 1), (w, 0), (gy, 1)))
    spatial = [1] * len(case.input)
    padded = _pad(case, xs)

    def add(sums: Array, a: Array, b: Array) -> Array:  # the product is exact in float64
        return (sums.astype(np.float64) + a.astype(np.float64) * b.astype(np.float64)).astype(np.float32)

    if pass_ == "wgrad":
        gw = np.zeros_like(ws)
        for tap, window in _taps(case):
            flat = padded[(..., *window)].reshape(*padded.shape[:3], -1)
            sums = gw[(..., *tap)]
            for n, i in itertools.product(range(case.n), range(flat.shape[-1])):
                sums = add(sums, gs.reshape(*gs.shape[:3], -1)[n, :, :, None, i], flat[n, :, None, :, i])
            gw[(..., *tap)] = sums
        return torch.from_numpy(gw.reshape(w.shape))
    if pass_ == "fprop":
        y = np.zeros((case.n, case.groups, case.k // case.groups, *case.output), np.float32)
        for tap, window in _taps(case):
            for c in range(case.c // case.groups):
                filters = ws[(slice(None), slice(None), c, *tap)]
                y = add(y, padded[(..., *window)][:, :, None, c], filters.reshape(1, *filters.shape, *spatial))
        return torch.from_numpy(y.reshape(gy.shape))
    gx = np.zeros_like(padded)
    for tap, window in _taps(case):
        for k in range(case.k // case.groups):
            filters = ws[(slice(None), k, slice(None), *tap)]
            gx[(..., *window)] = add(
                gx[(..., *window)], gs[:, :, None, k], filters.reshape(1, *filters.shape, *spatial)
            )
    inside = tuple(slice(low, low + size) for low, size in zip(case.padding_low, case.input, strict=True))
    return torch.from_numpy(np.ascontiguousarray(gx[(..., *inside)]).reshape(x.shape))


def _taps(case: ConvCase) -> Iterator[Tap]:
    """Each tap with the part of the padded input that it multiplies, one element an output."""
    axes = list(zip(case.output, case.stride, case.dilation, strict=True))
    for tap in itertools.product(*(range(size) for size in case.filter)):
        yield tap, tuple(slice(t * d, t * d + (p - 1) * s + 1, s) for t, (p, s, d) in zip(tap, axes, strict=True))


def _wide(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().double().numpy().astype(np.longdouble)


def _double(array: Array) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


def _grouped(case: ConvCase, tensor: torch.Tensor, axis: int) -> Array:
    """The channels at ``axis`` as (group, channel of the group)."""
    shape = tensor.shape
    return _wide(tensor).reshape(*shape[:axis], case.groups, shape[axis] // case.groups, *shape[axis + 1 :])


def _pad(case: ConvCase, array: Array) -> Array:
    return np.pad(array, [(0, 0)] * 3 + list(zip(case.padding_low, case.padding_high, strict=True)))
