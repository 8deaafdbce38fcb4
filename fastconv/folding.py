"""BatchNorm in eval mode is a scale and a shift of each channel: folded into the convolution before it, it is free.

bn(conv(x, w) + b) = conv(x, w * s) + (b - mean) * s + beta,    s = gamma / sqrt(var + eps), one for each channel
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .dispatch import is_compiling, is_plain, ordinary


def fold(weight: Tensor, bias: Tensor | None, bn: Any) -> tuple[Tensor, Tensor]:
    """(weight, bias) of the one convolution that does what the two layers do; differentiable.

    Args:
        weight: [K, C/groups, *filter].
        bias: [K] or None.
        bn: a BatchNorm layer of K features with running statistics.

    Returns:
        The weight's dtype and strides; computed in float32 at least.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    scale = (bn.running_var.to(wide) + bn.eps).rsqrt()
    if bn.weight is not None:
        scale = scale * bn.weight.to(wide)
    shift = -bn.running_mean.to(wide) if bias is None else bias.to(wide) - bn.running_mean.to(wide)
    shift = shift * scale
    if bn.bias is not None:
        shift = shift + bn.bias.to(wide)
    per_filter = scale.reshape(-1, *[1] * (weight.dim() - 1))
    return (weight.to(wide) * per_filter).to(weight.dtype), shift.to(weight.dtype)


class Fold:
    """Keeps the last fold while nothing it was made of has changed; neither copied nor pickled with its layer.

    A change is seen by a tensor's identity, its memory and autograd's version counter, which a write through
    ``tensor.data`` escapes: after one, :meth:`forget`.
    """

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self._kept: tuple[Any, ...] | None = None

    def __reduce__(self) -> tuple[type[Fold], tuple[()]]:
        """A copy starts with nothing kept."""
        return Fold, ()

    def forget(self) -> None:
        """The next call folds anew."""
        self._kept = None

    def of(self, conv: Any, bn: Any) -> tuple[Tensor, Tensor]:
        """:func:`fold` of the two layers. Differentiable where that is asked for, and then never kept."""
        weight, bias = conv.weight, conv.bias
        sources = (weight, bias, bn.weight, bn.bias, bn.running_mean, bn.running_var)
        given = [each for each in sources if each is not None]
        if is_compiling() or not ordinary() or not all(is_plain(each) and not each.is_inference() for each in given):
            return fold(weight, bias, bn)
        if torch.is_grad_enabled() and any(each.requires_grad for each in given):
            return fold(weight, bias, bn)
        state = (bn.eps, *((each._version, each.data_ptr(), each.dtype) for each in given))
        if self._kept is not None:
            kept_sources, kept_state, _, folded = self._kept
            if kept_state == state and all(a is b for a, b in zip(kept_sources, sources, strict=True)):
                return folded
        # Not inference tensors, even if made in inference mode: autograd may have to keep them in a later call.
        with torch.inference_mode(False), torch.no_grad():
            folded = fold(weight, bias, bn)
            # The aliases keep the memory from being given to someone else at the same address.
            self._kept = (sources, state, [each.detach() for each in given], folded)
        return folded
