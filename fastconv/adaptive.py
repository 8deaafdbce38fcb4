"""Adaptive pooling: the caller says how large the output is, the windows follow (csrc/include/fastconv/problem.h)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from . import settings
from .arguments import Rejected, integers
from .dispatch import elsewhere, is_watched
from .pooling import Pooling
from .repeats import known
from .routes import pool

_AXES = {1: ("L", "Q"), 2: ("H, W", "P, Q"), 3: ("D, H, W", "O, P, Q")}
_SIZES = {
    1: "an int or one in a tuple",
    2: "an int or a pair; None keeps the input's",
    3: "an int or three; None keeps the input's",
}
_is_grad_enabled = torch.is_grad_enabled
_threads = torch.get_num_threads


@dataclass(frozen=True)
class AdaptiveArguments:
    """What the caller gave."""

    output_size: Any

    @classmethod
    def of(cls, _: str, arguments: tuple[Any, ...]) -> AdaptiveArguments:
        """From the positional arguments of torch's function."""
        return cls(*arguments)

    def for_torch(self, _kind: str, _rank: int) -> dict[str, Any]:
        """As keyword arguments of torch's function."""
        return asdict(self)


class AdaptivePooling(Pooling):
    """As :class:`Pooling`; an ordinary one in all but name where the input's sizes are multiples of the output's."""

    Arguments = AdaptiveArguments
    prefix = "adaptive_"

    def _read(self, given: AdaptiveArguments) -> None:
        size = given.output_size
        if self.rank > 1 and isinstance(size, Sequence) and not isinstance(size, str):
            if len(size) != self.rank:
                raise Rejected(f"output_size: expected an int or {self.rank} ints, got {size!r}")
            size = [have if want is None else want for want, have in zip(size, self.x_shape[2:], strict=True)]
        self.output_size = integers(size, self.rank, "output_size")

    def _windows(self) -> dict[str, Any]:
        return {"adaptive_output": self.output_size}

    def _origins(self, axis: int) -> Tensor:
        positions = torch.arange(self.y_shape[2 + axis], device=self.device)
        return positions * self.x_shape[2 + axis] // self.y_shape[2 + axis]

    def aten_average(self, x: Tensor) -> Tensor:
        """y of adaptive average pooling by aten."""
        return getattr(torch_functional, f"adaptive_avg_pool{self.rank}d")(x, self.output_size)

    def aten_average_backward(self, gy: Tensor) -> Tensor:
        """gx of adaptive average pooling by aten, which wants x only for its shape."""
        x = gy.new_empty(1).expand(self.x_shape)
        if self.rank == 3:
            return torch.ops.aten._adaptive_avg_pool3d_backward(gy, x)
        if self.rank == 2:
            return torch.ops.aten._adaptive_avg_pool2d_backward(gy, x)
        # aten averages along one axis as along the second of two.
        return torch.ops.aten._adaptive_avg_pool2d_backward(gy.unsqueeze(2), x.unsqueeze(2)).squeeze(2)


def _named(function: Callable[..., Any], name: str, doc: str) -> Any:
    """``function`` as if it had been defined by that name in functional.py."""
    function.__name__ = function.__qualname__ = name
    function.__module__ = "fastconv.functional"
    function.__doc__ = doc
    return function


def _adaptive_avg_pool(rank: int) -> Callable[..., Tensor]:
    torchs = getattr(torch_functional, f"adaptive_avg_pool{rank}d")

    def adaptive_avg_pool(input: Tensor, output_size: Any) -> Tensor:
        if is_watched():
            return elsewhere(adaptive_avg_pool, torchs, input, output_size)
        key = (adaptive_avg_pool, id(output_size), _is_grad_enabled(), settings.current, _threads())
        for check, run, _ in known.get(key, ()):
            if check(input):
                return run(input)
        return pool(adaptive_avg_pool, rank, "average", key, input, (output_size,), of=AdaptivePooling)

    size, out = _AXES[rank]
    doc = f"""torch.nn.functional.adaptive_avg_pool{rank}d: the mean of each of ``output_size`` windows.

    On an axis from I to O, window o covers the elements [floor(o * I / O), ceil((o + 1) * I / O)), so that windows
    overlap unless O divides I. ``output_size`` 1 is global pooling.

    Args:
        input: [N, C, {size}] or [C, {size}].
        output_size: {_SIZES[rank]}.

    Returns:
        [N, C, {out}] (or [C, {out}]), channels last if the input is.

    Raises:
        What torch.nn.functional.adaptive_avg_pool{rank}d raises, with a message that names the argument.
    """
    return _named(adaptive_avg_pool, f"adaptive_avg_pool{rank}d", doc)


def _adaptive_max_pool(rank: int) -> Callable[..., Any]:
    torchs = getattr(torch_functional, f"adaptive_max_pool{rank}d")

    def adaptive_max_pool(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        if is_watched():
            return elsewhere(adaptive_max_pool, torchs, input, output_size, return_indices)
        key = (adaptive_max_pool, id(output_size), id(return_indices), _is_grad_enabled(), settings.current, _threads())
        for check, run, _ in known.get(key, ()):
            if check(input):
                return run(input)
        return pool(adaptive_max_pool, rank, "max", key, input, (output_size,), return_indices, of=AdaptivePooling)

    size, out = _AXES[rank]
    doc = f"""torch.nn.functional.adaptive_max_pool{rank}d, with the windows of :func:`adaptive_avg_pool{rank}d`.

    For the gradient it keeps one byte an output (four where a window has more than 255 elements), and not its input.

    Args:
        input: [N, C, {size}] or [C, {size}].
        output_size: {_SIZES[rank]}.
        return_indices: also return each maximum's index in its channel's [{size}], int64.

    Returns:
        y [N, C, {out}] (or [C, {out}]), or (y, indices) with ``return_indices``; channels last if the input is.

    Raises:
        What torch.nn.functional.adaptive_max_pool{rank}d raises, with a message that names the argument.
    """
    return _named(adaptive_max_pool, f"adaptive_max_pool{rank}d", doc)


def _with_indices(adaptive_max_pool: Callable[..., Any], rank: int) -> Callable[..., tuple[Tensor, Tensor]]:
    def with_indices(input: Tensor, output_size: Any, return_indices: bool = True) -> tuple[Tensor, Tensor]:
        return adaptive_max_pool(input, output_size, True)

    name = f"adaptive_max_pool{rank}d"
    doc = f":func:`{name}` with indices: always (y, indices), whatever ``return_indices`` says, as in torch."
    return _named(with_indices, f"{name}_with_indices", doc)


adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (_adaptive_avg_pool(rank) for rank in (1, 2, 3))
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (_adaptive_max_pool(rank) for rank in (1, 2, 3))
adaptive_max_pool1d_with_indices = _with_indices(adaptive_max_pool1d, 1)
adaptive_max_pool2d_with_indices = _with_indices(adaptive_max_pool2d, 2)
adaptive_max_pool3d_with_indices = _with_indices(adaptive_max_pool3d, 3)
