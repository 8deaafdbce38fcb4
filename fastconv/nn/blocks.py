"""Several layers in one: convolutions with BatchNorm and activation, depthwise-separable ones, inverted residuals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional
from ..activations import activation_of, name_of_module
from ..folding import Fold
from .layers import Conv2d


def _has_hooks(*modules: torch.nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(each, kind, None) for each in modules for kind in kinds)


class ConvBNAct(torch.nn.Module):
    """Convolution, BatchNorm and activation: activation(bn(conv(x)) + residual).

    In training mode the three layers one after the other. In eval mode BatchNorm is folded into the convolution's
    weight and bias and all is one call of :func:`fastconv.functional.conv2d_bias_act`, one launch where a kernel fuses
    it. The fold is kept until a parameter or statistic changes; autograd's version counters tell, so after writing
    through ``parameter.data`` (as some averages of weights do) call ``eval()`` again. It is not kept, but made anew
    and differentiated through, where gradients of the layers' own parameters are recorded.

    The submodules are ``conv`` (a Conv2d) and ``bn`` (a BatchNorm2d), so ``state_dict`` has ``conv.weight``,
    ``bn.running_mean`` and so on; the activation has no parameters. Hooks on a submodule, and a ``conv`` that is not
    fastconv's (after ``fastconv.revert``), are respected: the three layers run, then.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode: as torch.nn.Conv2d.
        bias: the convolution's; False by default, for BatchNorm has one.
        activation, negative_slope: as :func:`fastconv.functional.conv2d_bias_act`.
        eps, momentum, affine, track_running_stats: as torch.nn.BatchNorm2d.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = False,
        activation: str | None = "relu",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        padding_mode: str = "zeros",
        negative_slope: float = 0.01,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Raises ValueError for an unknown activation, and what the layers raise."""
        super().__init__()
        where = {"device": device, "dtype": dtype}
        conv = Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, **where
        )
        bn = torch.nn.BatchNorm2d(out_channels, eps, momentum, affine, track_running_stats, **where)
        self._adopt(conv, bn, activation, negative_slope)

    def _adopt(self, conv: torch.nn.Module, bn: torch.nn.Module, activation: str | None, slope: float) -> None:
        activation_of(activation, slope)
        self.conv, self.bn = conv, bn
        self.activation, self.negative_slope = activation, slope
        self._fold = Fold()

    @classmethod
    def from_modules(
        cls, conv: torch.nn.Conv2d, bn: torch.nn.BatchNorm2d, act: torch.nn.Module | None = None
    ) -> ConvBNAct:
        """The same layers as one: their parameters and buffers are shared, ``conv`` is converted in place.

        Args:
            conv: a Conv2d, torch's or fastconv's.
            bn: the BatchNorm2d after it.
            act: ReLU, ReLU6, LeakyReLU, Hardswish, SiLU, GELU, Identity or None.

        Raises:
            TypeError: conv or bn is of another kind.
            ValueError: bn's features are not conv's channels, or an epilogue cannot apply act.
        """
        from ..convert import convert

        if not isinstance(conv, torch.nn.Conv2d):
            raise TypeError(f"conv: expected a Conv2d, got {type(conv).__name__}")
        if not isinstance(bn, (torch.nn.BatchNorm2d, torch.nn.SyncBatchNorm)):
            raise TypeError(f"bn: expected a BatchNorm2d, got {type(bn).__name__}")
        if bn.num_features != conv.out_channels:
            raise ValueError(f"bn: expected {conv.out_channels} features, conv's channels, got {bn.num_features}")
        name, slope = name_of_module(act)
        self = cls.__new__(cls)
        torch.nn.Module.__init__(self)
        self._adopt(convert(conv), bn, name, slope)
        self.training = bn.training
        return self

    def train(self, mode: bool = True) -> ConvBNAct:
        """As torch's; also forgets the fold."""
        self._fold.forget()
        return super().train(mode)

    @property
    def _folds(self) -> bool:
        conv, bn = self.conv, self.bn
        if self.training or bn.training or bn.running_mean is None or not isinstance(conv, Conv2d):
            return False
        return not _has_hooks(conv, bn)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """[N, C, H, W] and, if any, a residual of the output's shape -> [N, K, P, Q]."""
        conv, bn = self.conv, self.bn
        if not self._folds:
            y = bn(conv(input))
            return activation_of(self.activation, self.negative_slope).apply(y if residual is None else y + residual)
        bn._check_input_dim(input)
        weight, bias = self._fold.of(conv, bn)
        return functional.conv2d_bias_act(
            input,
            weight,
            bias,
            residual,
            self.activation,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            negative_slope=self.negative_slope,
            padding_mode=conv.padding_mode,
        )

    def extra_repr(self) -> str:
        """The activation."""
        return f"activation={self.activation!r}"


class DepthwiseConv2d(Conv2d):
    """A Conv2d that filters every channel by itself: groups = in_channels.

    Args:
        in_channels, kernel_size, stride, padding, dilation, bias, padding_mode: as torch.nn.Conv2d.
        depth_multiplier: filters, and so output channels, for each channel.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        depth_multiplier: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Raises ValueError unless depth_multiplier >= 1, and what Conv2d raises."""
        if depth_multiplier < 1:
            raise ValueError(f"depth_multiplier: expected at least 1, got {depth_multiplier}")
        out_channels = in_channels * depth_multiplier
        where = {"device": device, "dtype": dtype}
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, in_channels, bias, padding_mode, **where
        )


class SeparableConv2d(torch.nn.Module):
    """A depthwise convolution and a pointwise one after it: :func:`fastconv.functional.separable_conv2d`.

    What lies between the two is not kept for the backward. The submodules are ``depthwise`` (a DepthwiseConv2d without
    bias) and ``pointwise`` (a Conv2d); where one of them has hooks, or is not fastconv's (after ``fastconv.revert``),
    the two run one after the other.

    Args:
        in_channels, out_channels: of the pair.
        kernel_size, stride, padding, dilation, padding_mode: of the depthwise convolution, as torch.nn.Conv2d.
        bias: of the pointwise convolution.
        depth_multiplier: filters for each channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        depth_multiplier: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Raises what the layers raise."""
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.depthwise = DepthwiseConv2d(
            in_channels, kernel_size, stride, padding, dilation, False, padding_mode, depth_multiplier, **where
        )
        self.pointwise = Conv2d(in_channels * depth_multiplier, out_channels, 1, bias=bias, **where)

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, K, P, Q]."""
        first, second = self.depthwise, self.pointwise
        if _has_hooks(first, second) or not (isinstance(first, Conv2d) and isinstance(second, Conv2d)):
            return second(first(input))
        return functional.separable_conv2d(
            input,
            first.weight,
            second.weight,
            second.bias,
            first.stride,
            first.padding,
            first.dilation,
            depthwise_bias=first.bias,
            padding_mode=first.padding_mode,
        )


class InvertedResidual(torch.nn.Module):
    """MobileNetV2's block (arXiv:1801.04381): expand by 1x1, filter depthwise, project by 1x1, and add the input where
    the shapes are the same. Each convolution has its BatchNorm, the first two an activation.

    In eval mode BatchNorm is folded (see :class:`ConvBNAct`) and the last two convolutions, with the residual, are one
    call of :func:`fastconv.functional.separable_conv2d`. The submodules ``expand`` (None for a ratio of 1),
    ``depthwise`` and ``project`` are ConvBNAct.

    Args:
        in_channels, out_channels: of the block.
        kernel_size, stride: of the depthwise convolution, padded by kernel_size // 2.
        expand_ratio: the width between the first and the last convolution over in_channels.
        activation: as for conv2d_bias_act.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        expand_ratio: int = 6,
        activation: str | None = "relu6",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Raises what the layers raise."""
        super().__init__()
        where = {"device": device, "dtype": dtype}
        width, padding = in_channels * expand_ratio, kernel_size // 2
        self.expand = None
        if expand_ratio != 1:
            self.expand = ConvBNAct(in_channels, width, 1, activation=activation, **where)
        self.depthwise = ConvBNAct(
            width, width, kernel_size, stride, padding, groups=width, activation=activation, **where
        )
        self.project = ConvBNAct(width, out_channels, 1, activation=None, **where)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, K, P, Q]."""
        first, second = self.depthwise, self.project
        x = input if self.expand is None else self.expand(input)
        residual = input if self.adds_input else None
        if _has_hooks(first, second) or not (first._folds and second._folds):
            return second(first(x), residual)
        weight, shift = first._fold.of(first.conv, first.bn)
        pointwise, bias = second._fold.of(second.conv, second.bn)
        return functional.separable_conv2d(
            x,
            weight,
            pointwise,
            bias,
            first.conv.stride,
            first.conv.padding,
            first.conv.dilation,
            depthwise_bias=shift,
            depthwise_activation=first.activation,
            residual=residual,
        )
