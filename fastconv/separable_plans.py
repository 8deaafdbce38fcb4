"""Plans of depthwise-separable convolutions: one launch that keeps z on chip, or one for each part.

A backend's table of them (``python -m fastconv info``) has the kernels that do it in one and, as their rival,
``two_launches``: the best plans of the two convolutions. What it predicts to be cheapest runs, unless a kernel of
another table is asked for (``use_kernel``) or a part is pinned: then the parts run, as asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import pins
from .activations import Activation
from .arguments import dense, dense_strides
from .convolution import Convolution
from .launch import separable_launch
from .routes import conv_route
from .units import si

#: The entry of the tables that stands for the two parts.
PARTS = "two_launches"


class FusedSeparable:
    """A separable convolution of one shape and one pair of epilogues: the plan of all of it, and what runs that.

    ``plan`` is None where no table has a say (no backend, or the parts are asked for), ``run`` unless ``plan`` is of
    one launch: ``run(x, depthwise_weight, depthwise_bias, pointwise_weight, bias, residual)``, operands of any strides.
    """

    def __init__(self, conv: Convolution, pw: Tensor, given: tuple[bool, bool, bool], acts: Any) -> None:
        """Plans it. ``given``: whether there is a depthwise bias, a bias, a residual; ``acts``: the activations."""
        self.conv, (between, after) = conv, acts
        self.plan, self.run = None, None
        self.shape = (conv.y_shape[0], pw.shape[0], *conv.y_shape[2:])
        forced = self._forced(pw)
        if forced is None:
            return
        problem = conv.module.SeparableProblem(
            depthwise=conv.problem, k=pw.shape[0], bias=given[0], activation=between.name, slope=between.slope
        )
        self.plan = conv.module.separable_plan(
            problem,
            kernel=forced,
            **conv.plan_options(given[1]),
            residual=given[2],
            activation=after.name,
            slope=after.slope,
        )
        if self.is_fused:
            strides = dense_strides(self.shape, conv.channels_last)
            self.run = partial(self._run, separable_launch(self.plan, conv.device, conv.dtype, self.shape, strides))

    @property
    def is_fused(self) -> bool:
        """Whether one kernel does all of it."""
        return self.plan is not None and self.plan.kernel != PARTS

    def _forced(self, pw: Tensor) -> str | None:
        """The kernel of the table to ask for, "" for the cheapest; None: the parts are asked for."""
        name = self.conv.settings.kernel
        if name in dict(self.conv.module.separable_kernels()):
            return name
        if name not in (None, "native") or (self.conv.settings.pins and self._is_pinned(pw)):
            return None
        return ""

    def _is_pinned(self, pw: Tensor) -> bool:
        conv = self.conv
        z = torch.empty_strided(conv.y_shape, conv.y_strides, dtype=conv.dtype, device=conv.device)
        return any(_pinned(each) for each in (conv, conv_route(Convolution, 2, z, pw.detach(), None, 1, 0, 1, 1)))

    def _run(self, launch: Callable[..., Tensor], *operands: Tensor | None) -> Tensor:
        last = self.conv.channels_last
        return launch(*(None if each is None else dense(each, last and each.dim() == 4) for each in operands))


def _pinned(conv: Any) -> bool:
    if not isinstance(conv, Convolution) or conv.module is None:
        return False
    plan = conv.plan("fprop")
    about = pins.pin_of(conv.module, conv.operation, conv.problem, "fprop", plan.kernel, **conv.plan_options())
    return bool(pins.kernel_for(conv.settings, plan, about))


def fused_of(
    conv: Any, pw: Tensor, given: tuple[bool, bool, bool], between: Activation, after: Activation
) -> FusedSeparable | None:
    """The one FusedSeparable of these; None where the depthwise part, a route, has no backend."""
    if not isinstance(conv, Convolution) or conv.module is None or not pw.shape[0]:
        return None
    key = ("separable", pw.shape[0], given, between, after)
    if key not in conv.epilogues:
        conv.epilogues[key] = FusedSeparable(conv, pw, given, (between, after))
    return conv.epilogues[key]


@dataclass(frozen=True)
class SeparablePlan:
    """The plans of the ``depthwise`` and the ``pointwise`` part, and the bytes of what lies between them; ``whole``:
    the plan that chose between one launch and these (None: nothing to choose).
    """

    depthwise: Any
    pointwise: Any
    between_bytes: int
    pass_: str = "fprop"
    whole: Any = None

    @property
    def is_fused(self) -> bool:
        """Whether one kernel does all of it, z on chip."""
        return self.whole is not None and self.whole.kernel != PARTS

    @property
    def _plans(self) -> tuple[Any, ...]:
        return (self.whole,) if self.is_fused else (self.depthwise, self.pointwise)

    @property
    def kernel(self) -> str:
        """The one that does all of it, or both."""
        return " + ".join(each.kernel for each in self._plans)

    @property
    def is_aten(self) -> bool:
        """Whether PyTorch's operators do all of it."""
        return all(each.is_aten for each in self._plans)

    @property
    def detail(self) -> str:
        """Of what runs."""
        return "; ".join(each.detail for each in self._plans if each.detail)

    @property
    def workspace_bytes(self) -> int:
        """One after the other."""
        return max(each.workspace_bytes for each in self._plans)

    @property
    def spared_bytes(self) -> int:
        """What this pass does not move, to memory and back, that two launches would."""
        return 2 * self.between_bytes if self.is_fused else 0

    @property
    def candidates(self) -> list[Any]:
        """Of all of it, and of either part."""
        whole = [] if self.whole is None else self.whole.candidates
        return [*whole, *self.depthwise.candidates, *self.pointwise.candidates]

    def explain(self) -> str:
        """The pages of what chose and of what runs, and what is neither moved nor kept."""
        pages = [] if self.whole is None else [self.whole.explain()]
        if not self.is_fused:
            pages += [self.depthwise.explain(), self.pointwise.explain()]
        between = si(self.between_bytes, "B")
        if self.is_fused:
            moved = si(self.spared_bytes, "B")
            pages.append(f"  on chip   {between} between the two: {moved} less to move, to memory and back\n")
        return "\n".join(pages) + f"{between} between the two are not kept for backward, which makes them again\n"

    def __repr__(self) -> str:
        """In one line."""
        return " then ".join(repr(each) for each in self._plans)
