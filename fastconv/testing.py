"""How close is close enough: the one tolerance rule, and makers of test tensors.

The oracle is never ourselves: float64, and for the tests of convolution sums in longdouble (tests/oracle.py), or else
float64 would be judged by torch's rounding errors. A result may be at most twice as far from it as torch's own operator
at the same dtype is, plus a small floor for where torch happens to be exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

#: How much worse than torch's own error ours may be.
FACTOR = 2.0

#: The floor, relative to the largest magnitude of the exact result: a few units in the dtype's last place. Measured:
#: the spread between torch's own algorithms for one problem (contiguous and channels_last, one thread and two).
FLOOR = {
    torch.float64: 2e-15,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}


def error(result: Tensor, exact: Tensor) -> float:
    """Largest absolute difference from the float64 ``exact``; infinite where a NaN or infinity does not match."""
    result, exact = result.detach().cpu().double(), exact.detach().cpu().double()
    if result.shape != exact.shape:
        raise AssertionError(f"shape: expected {list(exact.shape)}, got {list(result.shape)}")
    if not exact.numel():
        return 0.0
    special = ~exact.isfinite() | ~result.isfinite()
    same = (result == exact) | (result.isnan() & exact.isnan())
    if bool((special & ~same).any()):
        return float("inf")
    return float(torch.where(special, 0.0, (result - exact).abs()).max())


def tolerance(theirs: Tensor, exact: Tensor) -> float:
    """How far from ``exact`` a result may be whose torch counterpart is ``theirs``."""
    finite = exact.detach().cpu().double()
    finite = finite[finite.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return FACTOR * error(theirs, exact) + FLOOR[theirs.dtype] * scale


def assert_close_to_float64(ours: Tensor, theirs: Tensor, exact: Tensor, what: str = "result") -> None:
    """``ours`` is as close to ``exact`` as the tolerance rule demands.

    Args:
        ours: fastconv's result.
        theirs: torch's own at the same dtype.
        exact: the result for the same (rounded) operands in float64 or better.
        what: named in the message.

    Raises:
        AssertionError: with both errors, the limit and where the worst element is.
    """
    assert ours.dtype == theirs.dtype, f"{what}: dtype {ours.dtype}, torch's is {theirs.dtype}"
    found, limit = error(ours, exact), tolerance(theirs, exact)
    if found <= limit:
        return
    difference = (ours.detach().cpu().double() - exact.detach().cpu().double()).abs()
    worst = tuple(int(i) for i in torch.unravel_index(difference.nan_to_num(float("inf")).argmax(), difference.shape))
    raise AssertionError(
        f"{what}: error {found:.3g} against float64, limit {limit:.3g} (torch's own error {error(theirs, exact):.3g}); "
        f"worst at {worst}: got {ours[worst].item()!r}, exact {exact[worst].item()!r}"
    )


def assert_like_torch(
    ours: Callable[..., Any], theirs: Callable[..., Any], tensors: Sequence[Tensor | None], what: str = "result"
) -> None:
    """Run both functions on ``tensors``, and torch's on them in float64, and apply the rule to each of the results."""
    wide = [None if each is None else each.detach().double() for each in tensors]
    results = (ours(*tensors), theirs(*tensors), theirs(*wide))
    rows = zip(*(each if isinstance(each, (tuple, list)) else (each,) for each in results), strict=True)
    for index, (mine, torchs, exact) in enumerate(rows):
        assert_close_to_float64(mine, torchs, exact, f"{what} {index}" if index else what)


def random_tensor(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    seed: int,
    channels_last: bool = False,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Normal random numbers; the same for a seed whatever the dtype (rounded), layout and device."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    return _place(values, dtype, channels_last, device)


def integer_tensor(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    seed: int,
    high: int = 3,
    channels_last: bool = False,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Integers from -high to high: sums of few products of these are exact in every dtype, so that equality is exact
    and any wrong index shows.
    """
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-high, high + 1, tuple(shape), generator=generator).double()
    return _place(values, dtype, channels_last, device)


def _place(values: Tensor, dtype: torch.dtype, channels_last: bool, device: torch.device | str) -> Tensor:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(values.dim(), torch.contiguous_format)
    format_ = last if channels_last else torch.contiguous_format
    return values.to(device=device, dtype=dtype).contiguous(memory_format=format_)
