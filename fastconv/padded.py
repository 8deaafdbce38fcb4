"""Convolution of an input that is padded by what it holds itself, as torch.nn.Conv2d's padding_mode says.

A kernel that reads its input through an index map needs no padded copy. Where none takes a pass, the input is padded
first, or the padded gradient folded back, and the best kernel runs on that: pass by pass, and the plan says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from . import settings
from .arguments import Ints, Rejected, conv_padding, dense, dense_strides, integers
from .convolution import Convolution
from .dispatch import elsewhere, is_watched
from .precision import torchs_switch
from .repeats import known
from .routes import BY_NAME, _conv, convolve
from .units import si

MODES = ("reflect", "replicate", "circular")


class PaddedArguments(NamedTuple):
    """What the caller gave, in order."""

    stride: Any
    padding: Any
    dilation: Any
    groups: Any
    padding_mode: Any


def pad(x: Tensor, low: Ints, high: Ints, mode: str) -> Tensor:
    """x [N, C, *spatial] with so many elements before and behind each spatial axis."""
    if not any((*low, *high)):
        return x
    return torch_functional.pad(x, [each for pair in zip(low[::-1], high[::-1], strict=True) for each in pair], mode)


def fold(g: Tensor, low: Ints, high: Ints, mode: str) -> Tensor:
    """The adjoint of :func:`pad`: what x receives if g is the gradient of the padded x. Always the same bits: each
    axis in turn adds what lay before it, then what lay behind.
    """
    for axis, (before, behind) in enumerate(zip(low, high, strict=True), start=2):
        if not before and not behind:
            continue
        size = g.shape[axis] - before - behind
        first, last = g.narrow(axis, 0, before), g.narrow(axis, before + size, behind)
        if mode == "circular":
            parts = ((first, size - before), (last, 0))
        elif mode == "reflect":
            parts = ((first.flip(axis), 1), (last.flip(axis), size - 1 - behind))
        else:
            parts = ((first.sum(axis, keepdim=True), 0), (last.sum(axis, keepdim=True), size - 1))
        g = g.narrow(axis, before, size).clone()
        for part, at in parts:
            g.narrow(axis, at, part.shape[axis]).add_(part)
    return g


def by_torch(
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    padding_mode: str,
) -> Tensor:
    """The call by torch.nn.functional alone; differentiable. Raises RuntimeError for bad padding."""
    try:
        steps = integers(stride, rank, "stride"), integers(dilation, rank, "dilation")
        low, high = conv_padding(padding, rank, weight.shape[2:], *steps)
    except Rejected as refusal:
        raise RuntimeError(str(refusal)) from None
    padded = pad(input, low, high, padding_mode)
    return getattr(torch_functional, f"conv{rank}d")(padded, weight, bias, stride, 0, dilation, groups)


@dataclass(frozen=True)
class PadsFirstPlan:
    """The plan of the same pass on the padded input, its ``inner``, and ``mapped``, the module's plan for the problem
    itself, which says why no kernel maps the padding. Same face as a module's plan.
    """

    inner: Any
    mapped: Any
    moved_bytes: int

    def __getattr__(self, name: str) -> Any:
        """All else is the inner plan's."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def problem(self) -> Any:
        """The call's."""
        return self.mapped.problem

    @property
    def detail(self) -> str:
        """What pads, and the inner plan's."""
        how = "folds the padded gradient" if self.inner.pass_ == "dgrad" else "pads first"
        return ", ".join(filter(None, (how, self.inner.detail)))

    def explain(self) -> str:
        """Why the input is padded first, at what cost, and the page of what then runs."""
        refusals = [f"{each.kernel}: {each.reason}" for each in self.mapped.candidates if not each.accepted]
        why = "".join(f"    {each}\n" for each in refusals)
        mode, size = self.mapped.problem.padding_mode, self.moved_bytes
        how = f"pads by {mode} first, {si(size, 'B')} more to move, for no kernel maps the padding"
        return f"{how}\n{why}{self.inner.explain()}"

    def __repr__(self) -> str:
        """In one line."""
        return f"<plan {self.mapped.problem.padding_mode} padding, then {self.inner!r}>"


class PaddedConvolution(Convolution):
    """A planned convolution of x [N, C, *spatial], padded by what it holds, with w [K, C/groups, *filter]."""

    arguments = PaddedArguments

    @classmethod
    def torchs(cls, rank: int) -> Callable[..., Tensor]:
        """PyTorch's way."""
        return partial(by_torch, rank)

    def _make_problem(self, high: Ints) -> None:
        super()._make_problem(high)
        self.high = high
        size = [each + lo + hi for each, lo, hi in zip(self.x_shape[2:], self.low, high, strict=True)]
        shape = (*self.x_shape[:2], *size)
        # Examples of strides, which nobody reads.
        x = torch.empty_strided(shape, dense_strides(shape, self.channels_last), dtype=self.dtype, device=self.device)
        w = torch.empty_strided(self.w_shape, self.w_strides, dtype=self.dtype, device=self.device)
        #: The convolution of the padded input.
        self.inner = Convolution(x, w, None, (self.stride, 0, self.dilation, self.groups), self.rank)
        self.bias_problem = self.inner.problem
        self._moved_bytes = (x.numel() + math.prod(self.x_shape)) * x.element_size()

    @property
    def padding_mode(self) -> str:
        """As given. Raises Rejected for what is none."""
        mode = self.given.padding_mode
        if mode not in MODES:
            raise Rejected(f"padding_mode: expected one of {', '.join(MODES)}, got {mode!r}", ValueError)
        return mode

    def _make_plan(self, pass_: str, bias: bool) -> Any:
        if self.module is None or pass_ == "bgrad":
            return super()._make_plan(pass_, bias)
        # The kernel that use_kernel asks for may map no padding; whether it runs without is asked next.
        with suppress(RuntimeError):
            plan = super()._make_plan(pass_, bias)
            if not plan.is_aten:
                return plan
        inner = self.inner._plan(pass_, bias)
        mapped = self.module.conv_plan(self.problem, pass_, **self.plan_options(bias))
        return PadsFirstPlan(inner, mapped, self._moved_bytes)

    def pads_first(self, bias: bool) -> bool:
        """Whether no kernel maps the padding of fprop."""
        return isinstance(self._plan("fprop", bias), PadsFirstPlan)

    def pad(self, x: Tensor) -> Tensor:
        """A padded copy."""
        return pad(x, self.low, self.high, self.padding_mode)

    def fold(self, g: Tensor) -> Tensor:
        """The gradient of x, from that of the padded x."""
        return fold(g, self.low, self.high, self.padding_mode)

    def torch(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """PyTorch's own operators on the caller's own arguments; differentiable."""
        return by_torch(self.rank, x, w, bias, *self.given)

    def _bind_forward(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Callable[..., Tensor]:
        plan = self._plan("fprop", bias is not None)
        if plan.is_aten or not isinstance(plan, PadsFirstPlan):
            return super()._bind_forward(x, w, bias)
        launch, channels_last = self.inner.launch_of(plan.inner, "fprop"), self.channels_last
        return lambda x, w, bias: launch(
            dense(self.pad(x), channels_last), dense(w, channels_last), None if bias is None else dense(bias, False)
        )

    def _bind(self, pass_: str, a_strides: Ints, b_strides: Ints, aten: Callable[..., Any]) -> Callable[..., Any]:
        if not isinstance(self._plan(pass_), PadsFirstPlan):
            return super()._bind(pass_, a_strides, b_strides, aten)
        run = getattr(self.inner, pass_)
        if pass_ == "dgrad":
            return lambda gy, w: self.fold(run(gy, w))
        return lambda x, b: run(self.pad(x), b)

    # ---- the same passes by PyTorch; differentiable, and good under every transform ----
    def aten_fprop(self, x: Tensor, w: Tensor) -> Tensor:
        """y, from the padded x."""
        return self.inner.aten_fprop(self.pad(x), w)

    def aten_backward(
        self, gy: Tensor, x: Tensor | None, w: Tensor | None, need: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """(gx, gw), from the padded x, as Convolution's."""
        gx, gw = self.inner.aten_backward(gy, None if x is None else self.pad(x), w, need)
        return None if gx is None else self.fold(gx), gw


# ---- functions ----
def _padded(rank: int) -> Callable[..., Tensor]:
    def padded_conv(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        padding_mode: str = "reflect",
    ) -> Tensor:
        arguments = (stride, padding, dilation, groups, padding_mode)
        if is_watched():
            return elsewhere(padded_conv, partial(by_torch, rank), input, weight, bias, *arguments)
        key = (
            padded_conv,
            id(weight),
            id(stride),
            id(padding),
            id(dilation),
            id(groups),
            padding_mode,
            bias is None,
            torch.is_grad_enabled(),
            settings.current,
            torchs_switch(),
            torch.get_num_threads(),
        )
        for check, run, _ in known.get(key, ()):
            if check(input, weight) if bias is None else check(input, weight, bias):
                return run(input, weight, bias)
        return convolve(padded_conv, PaddedConvolution, rank, key, input, weight, bias, *arguments)

    padded_conv.__name__ = padded_conv.__qualname__ = f"padded_conv{rank}d"
    padded_conv.__doc__ = f"""conv{rank}d of an input padded by what it holds, as torch.nn.Conv{rank}d pads.

    Without a padded copy where a kernel maps the padding; :func:`fastconv.plan` says whether one does.

    Args:
        input, weight, bias, stride, padding, dilation, groups: as for conv{rank}d.
        padding_mode: "reflect", "replicate" or "circular".

    Returns:
        As conv{rank}d.

    Raises:
        ValueError: unknown padding_mode.
        What torch.nn.functional's pad and conv{rank}d raise, with a message that names the argument.
    """
    BY_NAME[padded_conv.__name__] = _conv(PaddedConvolution, rank, padded_conv.__name__)
    return padded_conv


padded_conv1d, padded_conv2d, padded_conv3d = (_padded(rank) for rank in (1, 2, 3))
