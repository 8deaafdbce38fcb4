"""What float32 products are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from . import settings

MODES = ("torch", "ieee", "tf32", "tf32x3")


class precision(settings.Choice):
    """Choose how float32 convolutions multiply: ``fastconv.precision("tf32x3")``, as a call or in a ``with`` block.

    - ``"torch"`` (the default): as PyTorch would on that device. For CUDA tensors its own switch decides
      (``torch.backends.cudnn.conv.fp32_precision``, ``allow_tf32``); CPU tensors are multiplied in float32.
    - ``"ieee"``: float32 products and sums.
    - ``"tf32"``: operands rounded to 10 bits, at tensor-core speed.
    - ``"tf32x3"``: float32 accuracy from three tf32 products of the operands' upper and lower parts (Ootomo and Yokota,
      2022, "Recovering single precision accuracy from Tensor Cores"). Sums of fewer than 128 products (256 in a weight
      gradient) are float32's own, which is more exact there. An infinity times a number becomes NaN.

    It is the least that is asked for: where no kernel for tensor cores takes a problem, and on the native CPU backend,
    float32 itself is used. A backward pass uses the mode of its forward pass. Other dtypes are not concerned.

    Raises:
        ValueError: an unknown mode.
    """

    field = "precision"

    def __init__(self, mode: str) -> None:
        """Apply ``mode`` now; leaving a ``with`` block restores the mode before it."""
        super().__init__(mode)

    def check(self, value: Any) -> str:
        """``value``, if it is a mode."""
        if value not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {value!r}")
        return value


def _switch() -> Callable[[], Any]:
    """A quick way to read PyTorch's switch for convolutions in CUDA: "tf32" or True where it allows tf32."""
    if torch.version.cuda is None:
        return bool  # there are no CUDA tensors
    getter = getattr(torch._C, "_get_fp32_precision_getter", None)
    return partial(getter, "cuda", "conv") if getter else torch._C._get_cudnn_allow_tf32


#: What calls compare to know whether PyTorch's switch is as it was.
torchs_switch = _switch()


def math_of(chosen: settings.Settings, device: torch.device) -> str:
    """The mode to plan with: "ieee", "tf32" or "tf32x3"."""
    if chosen.precision != "torch":
        return chosen.precision
    return "tf32" if device.type == "cuda" and torchs_switch() in ("tf32", True) else "ieee"
