"""What float32 products are made of."""

from __future__ import annotations

from typing import Any

from . import settings

MODES = ("ieee", "tf32", "tf32x3")
_AVAILABLE = ("ieee",)


class precision(settings.Choice):
    """Choose how float32 convolutions multiply: ``fastconv.precision("ieee")``, as a call or in a ``with`` block.

    ``"ieee"`` multiplies and adds in float32. ``"tf32"`` (operands rounded to 10 bits) and ``"tf32x3"`` (float32
    accuracy from three tf32 products) are known names, but need tensor-core kernels that this version does not have.

    Raises:
        ValueError: an unknown mode, or one that no kernel of this version implements.
    """

    field = "precision"

    def __init__(self, mode: str) -> None:
        """Apply ``mode`` now; leaving a ``with`` block restores the mode before it."""
        super().__init__(mode)

    def check(self, value: Any) -> str:
        """``value``, if a kernel implements it."""
        if value not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {value!r}")
        if value not in _AVAILABLE:
            raise ValueError(
                f"mode: {value!r} needs tensor-core kernels, which this version does not have yet; "
                f"available: {', '.join(_AVAILABLE)}"
            )
        return value
