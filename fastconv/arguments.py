"""Arguments as torch.nn.functional takes them -> plain tuples of ints; shapes and strides of dense tensors."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

Ints = tuple[int, ...]


class Rejected(Exception):
    """An argument is wrong; the message names it. Torch then says what type of exception it raises for that (see
    functional.py), unless the ``certain`` type is known and torch had better not try.
    """

    def __init__(self, message: str, certain: type[Exception] | None = None) -> None:
        """``message`` begins with the argument's name."""
        super().__init__(message)
        self.certain = certain


def integers(value: Any, rank: int, name: str) -> Ints:
    """An int, or ``rank`` ints (or one) in a tuple or list -> ``rank`` ints.

    An integer is what torch takes for one: an int, a NumPy integer, a one-element integer tensor; not a bool or float.
    """
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    if len(values) == 1:
        values *= rank
    if len(values) != rank:
        raise Rejected(f"{name}: expected an int or a tuple of {rank} ints, got {value!r}")
    if any(isinstance(each, bool) for each in values):
        raise Rejected(f"{name}: expected an int or a tuple of {rank} ints, got a bool in {value!r}")
    try:
        return tuple(operator.index(each) for each in values)
    except (TypeError, RuntimeError):
        raise Rejected(f"{name}: expected an int or a tuple of {rank} ints, got {value!r}") from None


def flag(value: Any, name: str) -> bool:
    """A bool, and nothing that merely acts like one."""
    if not isinstance(value, bool):
        raise Rejected(f"{name}: expected a bool, got {value!r}")
    return value


def conv_padding(padding: Any, rank: int, filter_size: Ints, stride: Ints, dilation: Ints) -> tuple[Ints, Ints]:
    """Padding below and above each spatial axis.

    ``"same"`` pads ``dilation * (filter - 1)`` in all; where that is odd the extra one goes above, as in torch.
    """
    if not isinstance(padding, str):
        low = integers(padding, rank, "padding")
        return low, low
    if padding == "valid":
        return (0,) * rank, (0,) * rank
    if padding != "same":
        raise Rejected(f"padding: expected ints, 'same' or 'valid', got {padding!r}")
    if any(step != 1 for step in stride):
        raise Rejected(f"padding: 'same' is not supported for strided convolutions, got stride {stride}")
    total = [d * (f - 1) for d, f in zip(dilation, filter_size, strict=True)]
    return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)


def dense_strides(shape: Sequence[int], channels_last: bool) -> Ints:
    """Strides of a dense tensor [N, C, *spatial] in memory order NCHW or NHWC."""
    order = range(len(shape) - 1, -1, -1)
    if channels_last:
        order = [1, *range(len(shape) - 1, 1, -1), 0]
    strides, step = [0] * len(shape), 1
    for axis in order:
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def is_channels_last(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether torch would call a [N, C, H, W] tensor channels_last (c10's is_channels_last_strides, whose rules for
    extents of 1 decide what layout an operator's output has).
    """
    smallest = 0
    if len(shape) < 4 or strides[1] == 0:
        return False
    for axis in (1, *range(len(shape) - 1, 1, -1), 0):
        if shape[axis] == 0 or strides[axis] < smallest or (axis == 0 and smallest == strides[1]):
            return False
        smallest = strides[axis] * max(shape[axis], 1)
    return True


def is_dense(tensor: torch.Tensor, strides: Ints) -> bool:
    """Whether a kernel may read ``tensor`` as it is, if its layout has these strides. False is no harm: see dense."""
    return tensor.stride() == strides and not tensor.is_neg()


_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def dense(tensor: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """``tensor`` [N, C, *spatial] itself if it is dense in this memory order, else a dense copy."""
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return tensor.contiguous(memory_format=_CHANNELS_LAST[tensor.dim()] if channels_last else torch.contiguous_format)
