"""torch.nn's layers on fastconv's kernels. Each subclasses torch's own, so that isinstance, state_dict, repr,
initialisation, pickling and deepcopy hold; only ``forward`` differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from . import functional


def _conv_forward(conv: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.nn.Conv*d._conv_forward, by ``conv``. (torch.jit.script compiles what a closure returns.)"""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            input = torch_functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return conv(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        return conv(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    return _conv_forward


class Conv1d(torch.nn.Conv1d):
    """torch.nn.Conv1d: same arguments, parameters and padding modes."""

    _conv_forward = _conv_forward(functional.conv1d)


class Conv2d(torch.nn.Conv2d):
    """torch.nn.Conv2d: same arguments, parameters and padding modes."""

    _conv_forward = _conv_forward(functional.conv2d)


class Conv3d(torch.nn.Conv3d):
    """torch.nn.Conv3d: same arguments, parameters and padding modes."""

    _conv_forward = _conv_forward(functional.conv3d)


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
}
