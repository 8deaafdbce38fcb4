"""torch.nn's layers on fastconv's kernels. Each subclasses torch's own, so that isinstance, state_dict, repr,
initialisation, pickling and deepcopy hold; only ``forward`` differs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from . import functional


class Conv2d(torch.nn.Conv2d):
    """torch.nn.Conv2d: same arguments, parameters and padding modes."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            input = torch_functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return functional.conv2d(input, weight, bias, self.stride, (0, 0), self.dilation, self.groups)
        return functional.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class MaxPool2d(torch.nn.MaxPool2d):
    """torch.nn.MaxPool2d: same arguments."""

    def forward(self, input: Tensor):
        """[N, C, H, W] or [C, H, W] -> y, or (y, indices) with ``return_indices``."""
        # Two functions, each with one type of result, so that torch.jit.script can compile this.
        if self.return_indices:
            return functional.max_pool2d_with_indices(
                input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
            )
        else:
            return functional.max_pool2d(
                input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
            )


class AvgPool2d(torch.nn.AvgPool2d):
    """torch.nn.AvgPool2d: same arguments."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] or [C, H, W] -> y."""
        return functional.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


#: torch's layer -> ours
LAYERS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Conv2d: Conv2d,
    torch.nn.MaxPool2d: MaxPool2d,
    torch.nn.AvgPool2d: AvgPool2d,
}
