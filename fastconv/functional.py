"""torch.nn.functional's convolution and pooling, with its signatures and semantics, on fastconv's kernels.

Each function recognises a call like one before (repeats.py) and runs what served that; whatever it does not recognise
goes the long way (routes.py), where everything is checked and planned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from . import settings
from .dispatch import elsewhere, is_watched
from .precision import torchs_switch
from .repeats import known
from .routes import convolve, pool

_is_grad_enabled = torch.is_grad_enabled
_threads = torch.get_num_threads


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """torch.nn.functional.conv2d.

    Args:
        input: [N, C, H, W] or [C, H, W].
        weight: [K, C/groups, R, S].
        bias: [K] or None.
        stride, dilation: an int or a pair.
        padding: an int, a pair, "valid" or "same".
        groups: divides C and K.

    Returns:
        [N, K, P, Q] (or [K, P, Q]), channels_last if input or weight is.

    Raises:
        What torch.nn.functional.conv2d raises, with a message that names the argument.
    """
    if is_watched():
        return elsewhere(conv2d, torch_functional.conv2d, input, weight, bias, stride, padding, dilation, groups)
    key = (
        id(weight),
        id(stride),
        id(padding),
        id(dilation),
        id(groups),
        bias is None,
        _is_grad_enabled(),
        settings.current,
        torchs_switch(),
        _threads(),
    )
    for check, run, _ in known.get(key, ()):
        if check(input, weight) if bias is None else check(input, weight, bias):
            return run(input, weight, bias)
    return convolve(conv2d, 2, key, input, weight, bias, stride, padding, dilation, groups)


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """torch.nn.functional.max_pool2d; for the gradient it keeps one byte an output, and not its input.

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size, stride, padding, dilation: an int or a pair; stride None means kernel_size.
        ceil_mode: let a last window hang over the edge.
        return_indices: also return each maximum's index in its H*W plane, int64.

    Returns:
        y, or (y, indices) with ``return_indices``.

    Raises:
        What torch.nn.functional.max_pool2d raises, with a message that names the argument.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode)
    if is_watched():
        return elsewhere(max_pool2d, torch_functional.max_pool2d, input, *arguments, return_indices)
    key = (
        max_pool2d,
        id(kernel_size),
        id(stride),
        id(padding),
        id(dilation),
        id(ceil_mode),
        id(return_indices),
        _is_grad_enabled(),
        settings.current,
        _threads(),
    )
    for check, run, _ in known.get(key, ()):
        if check(input):
            return run(input)
    return pool(max_pool2d, 2, "max", key, input, arguments, return_indices)


def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = True,
) -> tuple[Tensor, Tensor]:
    """:func:`max_pool2d` with indices: always (y, indices), whatever ``return_indices`` says, as in torch."""
    return max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, True)


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """torch.nn.functional.avg_pool2d.

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size, stride, padding: an int or a pair; stride None means kernel_size.
        ceil_mode: let a last window hang over the edge.
        count_include_pad: whether padding counts in the divisor.
        divisor_override: the divisor, instead of the window's size.

    Returns:
        [N, C, P, Q] (or [C, P, Q]).

    Raises:
        What torch.nn.functional.avg_pool2d raises, with a message that names the argument.
    """
    arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    if is_watched():
        return elsewhere(avg_pool2d, torch_functional.avg_pool2d, input, *arguments)
    key = (
        avg_pool2d,
        id(kernel_size),
        id(stride),
        id(padding),
        id(divisor_override),
        id(ceil_mode),
        id(count_include_pad),
        _is_grad_enabled(),
        settings.current,
        _threads(),
    )
    for check, run, _ in known.get(key, ()):
        if check(input):
            return run(input)
    return pool(avg_pool2d, 2, "average", key, input, arguments)


def _teach_torchscript() -> None:
    """torch.jit.script compiles a call of these as the ATen operator of the same name; it cannot look inside them."""
    try:
        from torch.jit import _builtins
    except ImportError:  # a torch without TorchScript, which is deprecated: nothing to teach
        return
    for function in (conv2d, max_pool2d, max_pool2d_with_indices, avg_pool2d):
        _builtins._register_builtin(function, f"aten::{function.__name__}")


_teach_torchscript()
