"""torch.nn's layers whose forward runs fastconv's kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from .. import functional


def _conv_forward(conv: Callable[..., Tensor], padded_conv: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.nn.Conv*d._conv_forward, by these two. (torch.jit.script compiles what a closure returns; it does not know
    ``padded_conv``.)
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            if torch.jit.is_scripting():
                input = torch_functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
                return conv(input, weight, bias, self.stride, 0, self.dilation, self.groups)
            else:
                geometry = (self.stride, self.padding, self.dilation, self.groups)
                return padded_conv(input, weight, bias, *geometry, self.padding_mode)
        return conv(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    return _conv_forward


class Conv1d(torch.nn.Conv1d):
    """torch.nn.Conv1d: same arguments, parameters and padding modes."""

    _conv_forward = _conv_forward(functional.conv1d, functional.padded_conv1d)


class Conv2d(torch.nn.Conv2d):
    """torch.nn.Conv2d: same arguments, parameters and padding modes."""

    _conv_forward = _conv_forward(functional.conv2d, functional.padded_conv2d)


class Conv3d(torch.nn.Conv3d):
    """torch.nn.Conv3d: same arguments, parameters and padding modes."""

    _conv_forward = _conv_forward(functional.conv3d, functional.padded_conv3d)


def _transpose_forward(conv_transpose: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.nn.ConvTranspose*d.forward, by ``conv_transpose``."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As torch's: of all sizes that the output may have, ``output_size`` says which."""
        # Torch's layer refuses other padding modes when it is made; one that was changed later, now.
        if self.padding_mode != "zeros":
            raise ValueError("padding_mode: a transposed convolution has only 'zeros'")
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, len(self.kernel_size), self.dilation
        )
        return conv_transpose(
            input, self.weight, self.bias, self.stride, self.padding, output_padding, self.groups, self.dilation
        )

    return forward


class ConvTranspose1d(torch.nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d: same arguments and parameters."""

    forward = _transpose_forward(functional.conv_transpose1d)


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d: same arguments and parameters."""

    forward = _transpose_forward(functional.conv_transpose2d)


class ConvTranspose3d(torch.nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d: same arguments and parameters."""

    forward = _transpose_forward(functional.conv_transpose3d)


def _max_forward(max_pool: Callable[..., Any], with_indices: Callable[..., Any]) -> Callable[..., Any]:
    """torch.nn.MaxPool*d.forward, by two functions, each with one type of result: torch.jit.script needs that."""

    def forward(self, input: Tensor):
        """-> y, or (y, indices) with ``return_indices``."""
        if self.return_indices:
            return with_indices(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        else:
            return max_pool(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    return forward


class MaxPool1d(torch.nn.MaxPool1d):
    """torch.nn.MaxPool1d: same arguments."""

    forward = _max_forward(functional.max_pool1d, functional.max_pool1d_with_indices)


class MaxPool2d(torch.nn.MaxPool2d):
    """torch.nn.MaxPool2d: same arguments."""

    forward = _max_forward(functional.max_pool2d, functional.max_pool2d_with_indices)


class MaxPool3d(torch.nn.MaxPool3d):
    """torch.nn.MaxPool3d: same arguments."""

    forward = _max_forward(functional.max_pool3d, functional.max_pool3d_with_indices)


def _average_forward(avg_pool: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.nn.AvgPool*d.forward, of two axes and three."""

    def forward(self, input: Tensor) -> Tensor:
        """-> y."""
        return avg_pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    return forward


class AvgPool1d(torch.nn.AvgPool1d):
    """torch.nn.AvgPool1d: same arguments."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, L] or [C, L] -> y."""
        return functional.avg_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class AvgPool2d(torch.nn.AvgPool2d):
    """torch.nn.AvgPool2d: same arguments."""

    forward = _average_forward(functional.avg_pool2d)


class AvgPool3d(torch.nn.AvgPool3d):
    """torch.nn.AvgPool3d: same arguments."""

    forward = _average_forward(functional.avg_pool3d)


def _adaptive_forward(adaptive: Callable[..., Any], torchs: Callable[..., Any]) -> Callable[..., Any]:
    """torch.nn.AdaptiveAvgPool*d.forward. torch.jit.script compiles torch's own function, which knows of None."""

    def forward(self, input: Tensor) -> Tensor:
        """-> y."""
        if torch.jit.is_scripting():
            return torchs(input, self.output_size)
        else:
            return adaptive(input, self.output_size)

    return forward


def _adaptive_max_forward(adaptive: Callable[..., Any], torchs: Callable[..., Any]) -> Callable[..., Any]:
    """torch.nn.AdaptiveMaxPool*d.forward, likewise."""

    def forward(self, input: Tensor):
        """-> y, or (y, indices) with ``return_indices``."""
        if torch.jit.is_scripting():
            return torchs(input, self.output_size, self.return_indices)
        else:
            return adaptive(input, self.output_size, self.return_indices)

    return forward


class AdaptiveAvgPool1d(torch.nn.AdaptiveAvgPool1d):
    """torch.nn.AdaptiveAvgPool1d: same arguments."""

    forward = _adaptive_forward(functional.adaptive_avg_pool1d, torch_functional.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    """torch.nn.AdaptiveAvgPool2d: same arguments."""

    forward = _adaptive_forward(functional.adaptive_avg_pool2d, torch_functional.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(torch.nn.AdaptiveAvgPool3d):
    """torch.nn.AdaptiveAvgPool3d: same arguments."""

    forward = _adaptive_forward(functional.adaptive_avg_pool3d, torch_functional.adaptive_avg_pool3d)


class AdaptiveMaxPool1d(torch.nn.AdaptiveMaxPool1d):
    """torch.nn.AdaptiveMaxPool1d: same arguments."""

    forward = _adaptive_max_forward(functional.adaptive_max_pool1d, torch_functional.adaptive_max_pool1d)


class AdaptiveMaxPool2d(torch.nn.AdaptiveMaxPool2d):
    """torch.nn.AdaptiveMaxPool2d: same arguments."""

    forward = _adaptive_max_forward(functional.adaptive_max_pool2d, torch_functional.adaptive_max_pool2d)


class AdaptiveMaxPool3d(torch.nn.AdaptiveMaxPool3d):
    """torch.nn.AdaptiveMaxPool3d: same arguments."""

    forward = _adaptive_max_forward(functional.adaptive_max_pool3d, torch_functional.adaptive_max_pool3d)


def _unpool_forward(unpool: Callable[..., Tensor], torchs: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.nn.MaxUnpool*d.forward. torch.jit.script compiles torch's own function."""

    def forward(self, input: Tensor, indices: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As torch's: of all sizes that the pooled tensor may have had, ``output_size`` says which."""
        if torch.jit.is_scripting():
            return torchs(input, indices, self.kernel_size, self.stride, self.padding, output_size)
        else:
            return unpool(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    return forward


class MaxUnpool1d(torch.nn.MaxUnpool1d):
    """torch.nn.MaxUnpool1d: same arguments."""

    forward = _unpool_forward(functional.max_unpool1d, torch_functional.max_unpool1d)


class MaxUnpool2d(torch.nn.MaxUnpool2d):
    """torch.nn.MaxUnpool2d: same arguments."""

    forward = _unpool_forward(functional.max_unpool2d, torch_functional.max_unpool2d)


class MaxUnpool3d(torch.nn.MaxUnpool3d):
    """torch.nn.MaxUnpool3d: same arguments."""

    forward = _unpool_forward(functional.max_unpool3d, torch_functional.max_unpool3d)


#: torch's layer -> ours
LAYERS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Conv1d: Conv1d,
    torch.nn.Conv2d: Conv2d,
    torch.nn.Conv3d: Conv3d,
    torch.nn.ConvTranspose1d: ConvTranspose1d,
    torch.nn.ConvTranspose2d: ConvTranspose2d,
    torch.nn.ConvTranspose3d: ConvTranspose3d,
    torch.nn.MaxPool1d: MaxPool1d,
    torch.nn.MaxPool2d: MaxPool2d,
    torch.nn.MaxPool3d: MaxPool3d,
    torch.nn.AvgPool1d: AvgPool1d,
    torch.nn.AvgPool2d: AvgPool2d,
    torch.nn.AvgPool3d: AvgPool3d,
    torch.nn.AdaptiveAvgPool1d: AdaptiveAvgPool1d,
    torch.nn.AdaptiveAvgPool2d: AdaptiveAvgPool2d,
    torch.nn.AdaptiveAvgPool3d: AdaptiveAvgPool3d,
    torch.nn.AdaptiveMaxPool1d: AdaptiveMaxPool1d,
    torch.nn.AdaptiveMaxPool2d: AdaptiveMaxPool2d,
    torch.nn.AdaptiveMaxPool3d: AdaptiveMaxPool3d,
    torch.nn.MaxUnpool1d: MaxUnpool1d,
    torch.nn.MaxUnpool2d: MaxUnpool2d,
    torch.nn.MaxUnpool3d: MaxUnpool3d,
}
