"""Transposed convolution: a convolution's dgrad, as an operator of its own.

The result of ``conv_transpose(x, w)`` is what the input of ``conv(., w)`` would receive if x were the gradient of its
output. So a :class:`TransposedConvolution` is that convolution, planned and kept like any other, seen from its far end:
its result is the problem's x and its input the problem's y; its fprop is the problem's dgrad, its dgrad the problem's
fprop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arguments import Ints, Rejected, integers
from .convolution import Convolution, check_bias

_PASSES = {"fprop": "dgrad", "dgrad": "fprop"}


class TransposedArguments(NamedTuple):
    """What the caller of conv_transpose gave, in torch's order."""

    stride: Any
    padding: Any
    output_padding: Any
    groups: Any
    dilation: Any


def transposed_size(
    size: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    extra: Sequence[int],
) -> Ints:
    """The sizes of which a convolution makes ``size``: the least, and ``extra`` (output_padding) more. Any extra below
    the stride gives ``size`` again.
    """
    return tuple(
        (i - 1) * s - 2 * p + d * (f - 1) + e + 1
        for i, f, s, p, d, e in zip(size, window, stride, padding, dilation, extra, strict=True)
    )


def _least(values: Ints, least: int, name: str) -> Ints:
    if any(value < least for value in values):
        raise Rejected(f"{name}: expected at least {least}, got {values}")
    return values


class TransposedConvolution(Convolution):
    """A planned transposed convolution of x [N, C, *spatial] with w [C, K/groups, *filter].

    ``forward(x, w, bias)`` is the call; the passes by name are those of the convolution that is transposed.
    """

    kind, arguments, forward_pass = "conv_transpose", TransposedArguments, "dgrad"

    def _read(self, bias: Tensor | None) -> tuple[Ints, Ints]:
        """Check the sizes and set ``x_shape``, the result's; the padding, which is the same on both ends."""
        groups = _least((self.groups,), 1, "groups")[0]
        stride, dilation = _least(self.stride, 1, "stride"), _least(self.dilation, 1, "dilation")
        padding = _least(integers(self.given.padding, self.rank, "padding"), 0, "padding")
        extra = _least(integers(self.given.output_padding, self.rank, "output_padding"), 0, "output_padding")
        channels, spatial, window = self.w_shape[1] * groups, self.input_shape[-self.rank :], self.w_shape[2:]
        check_bias(bias, channels)
        if self.input_shape[-self.rank - 1] != self.w_shape[0]:
            raise Rejected(
                f"input: expected {self.w_shape[0]} channels (weight.shape[0]), got {self.input_shape[-self.rank - 1]}"
            )
        if self.w_shape[0] % groups:
            raise Rejected(f"weight: {self.w_shape[0]} input channels are not divisible by groups={groups}")
        if any(e >= s and e >= d for e, s, d in zip(extra, stride, dilation, strict=True)):
            raise Rejected(f"output_padding: expected less than stride {stride} or dilation {dilation}, got {extra}")
        size = transposed_size(spatial, window, stride, padding, dilation, extra)
        if any(each < 1 for each in size):
            raise Rejected(f"input: size {spatial} is too small, the output's would be {size}")
        self.x_shape, self._output_padding = (self.input_shape[0], channels, *size), extra
        self._spills = any(e >= s for e, s in zip(extra, stride, strict=True))
        return padding, padding

    def _choose_module(self, x: Tensor, w: Tensor) -> tuple[Any, str]:
        if self._spills:
            return None, "output_padding of a whole stride: no convolution of that size has this one's input for output"
        return super()._choose_module(x, w)

    def _make_problem(self, high: Ints) -> None:
        super()._make_problem(high)
        self.result_shape, self.result_strides = self.x_shape, self.x_strides
        n, channels, *size = self.x_shape
        ones = (1,) * self.rank
        self.bias_problem = self.module.ConvProblem(
            n=n,
            c=channels,
            k=channels,
            input=size,
            filter=ones,
            stride=ones,
            padding=(0,) * self.rank,
            dilation=ones,
            groups=channels,
            dtype=self.problem.dtype,
            layout=self.problem.layout,
        )

    def plan(self, pass_: str) -> Any:
        """The plan of a pass of the call: its fprop is planned, and shown, as the dgrad of the problem."""
        return self._plan(_PASSES.get(pass_, pass_))

    # ---- PyTorch's operators, those of its own transposed convolution: a convolution's sum up differently ----
    def aten_dgrad(self, gy: Tensor, w: Tensor) -> Tensor:
        """The call's result, by aten::convolution."""
        return torch.convolution(
            gy, w, None, self.stride, self.low, self.dilation, True, self._output_padding, self.groups
        )

    def aten_fprop(self, x: Tensor, w: Tensor) -> Tensor:
        """The gradient of the call's input, from that of its result, by aten::convolution_backward."""
        return self._aten_gradients(x, x.new_empty(1).expand(self.y_shape), w, (True, False))[0]

    def aten_wgrad(self, x: Tensor, gy: Tensor) -> Tensor:
        """The gradient of w, by aten::convolution_backward."""
        return self._aten_gradients(x, gy, gy.new_empty(1).expand(self.w_shape), (False, True))[1]

    def _aten_gradients(self, gradient: Tensor, input: Tensor, w: Tensor, need: tuple[bool, bool]) -> Any:
        geometry = (self.stride, self.low, self.dilation, True, self._output_padding, self.groups)
        return torch.ops.aten.convolution_backward(gradient, input, w, None, *geometry, (*need, False))
