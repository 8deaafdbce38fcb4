"""Plans: which kernel runs a pass of a problem. The compiled modules choose; this adds PyTorch's own operator for what
no module takes, the settings in force, and :func:`plan` and :func:`explain` for people; :func:`pin` and its relatives
overrule the choice, for one problem at a time.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from . import pins, settings
from .pins import Pin, load, save

__all__ = ["AtenPlan", "Pin", "explain", "load", "pin", "pinned", "plan", "save", "unpin"]

log = logging.getLogger("fastconv")


@dataclass(frozen=True)
class AtenPlan:
    """PyTorch's own operator, and the ``reason`` why no kernel takes the problem. Same face as a module's plan."""

    operation: str
    pass_: str
    reason: str
    kernel: str = "aten"
    is_aten: bool = True
    workspace_bytes: int = 0
    detail: str = ""
    problem: Any = None
    candidates: list[Any] = field(default_factory=list)

    def explain(self) -> str:
        """A page for people: what was asked, and why PyTorch runs it."""
        return f"{self.pass_} of {self.operation}\n  choice    aten: {self.reason}\n"

    def __repr__(self) -> str:
        """In one line."""
        return f"<plan aten: {self.pass_} of {self.operation}: {self.reason}>"


def note_aten(plan: Any) -> None:
    """A debug line on the logger "fastconv" for a plan that hands a problem to PyTorch."""
    if log.isEnabledFor(logging.DEBUG):
        log.debug("aten runs %s", plan.explain().rstrip())


def _forced(module: ModuleType, operation: str, pass_: str, name: str | None) -> str:
    """The kernel name to ask of the module's table: "" where the choice is free."""
    if name is None or name == "native":
        return ""
    table = getattr(module, f"{operation}_kernels")()
    # A bias gradient is a plain reduction: kernels that are named after a way to convolve have no say in it.
    return name if pass_ != "bgrad" and any(name == entry for entry, _ in table) else ""


def make_plan(
    module: ModuleType, operation: str, problem: Any, pass_: str, chosen: settings.Settings, **options: Any
) -> Any:
    """Plan one pass ("fprop", "dgrad", ...) of a module's problem under the settings that were in force for its call.

    Args:
        module: a backend's compiled module.
        operation: "conv" or "pool".
        problem: the module's ConvProblem or PoolProblem.
        pass_: the pass's name.
        chosen: the settings; a backward pass uses those of its forward pass.
        options: threads, device, bias, offsets, indices, workspace_limit: see csrc/include/fastconv/plan.h.

    Raises:
        RuntimeError: the kernel that ``use_kernel`` forces refuses the problem; the message has its reason.
    """
    make: Callable[..., Any] = getattr(module, f"{operation}_plan")
    forced = _forced(module, operation, pass_, chosen.kernel)
    plan = make(problem, pass_, kernel=forced, **options)
    if chosen.pins and not forced:
        about = pins.pin_of(module, operation, problem, pass_, plan.kernel, **options)
        if wanted := pins.kernel_for(chosen, plan, about):
            plan = make(problem, pass_, pinned=wanted, **options)
            _warn_unless(wanted, plan)
    if plan.is_aten and chosen.kernel == "native":
        native = [each for each in plan.candidates if each.accepted and each.kernel != "aten"]
        if not native:
            raise RuntimeError(f"kernel: no native kernel accepts this problem\n{plan.explain()}")
        best = min(native, key=lambda each: each.cost.microseconds)
        plan = make(problem, pass_, kernel=best.kernel, **options)
    # Of padding that is not zeros PyTorch may only pad (padded.py).
    if plan.is_aten and getattr(problem, "padding_mode", "zeros") == "zeros":
        note_aten(plan)
    return plan


def _warn_unless(wanted: str, plan: Any) -> None:
    """A pinned kernel may refuse what it took when it was pinned: an option of the call, a limit on the workspace."""
    if plan.kernel != wanted:
        reason = next((each.reason for each in plan.candidates if each.kernel == wanted), "not in the table")
        warnings.warn(f"pin: {wanted} cannot run {plan.problem!r} ({reason}); {plan.kernel} does", stacklevel=2)


def plan(function: Callable[..., Any] | str, *args: Any, pass_: str = "fprop", **kwargs: Any) -> Any:
    """The plan that a call ``function(*args, **kwargs)`` would run, without running it.

    Args:
        function: one of :mod:`fastconv.functional`'s functions, or its name: ``"conv2d"``, ``"max_pool2d"`` ...
        args, kwargs: what the call would be given.
        pass_: "fprop" (the default); conv: also "dgrad", "wgrad", "bgrad"; pooling: "dgrad"; max-pool: "gather".

    Returns:
        An object with ``kernel`` ("aten" where PyTorch's operator runs), ``is_aten``, ``detail``, ``workspace_bytes``,
        ``candidates`` (each accepted or refused with a reason) and ``explain()``.

    Raises:
        ValueError: unknown function or pass.
        Whatever the call itself would raise for bad arguments.
    """
    return _route(function, args, kwargs).plan(pass_)


def _route(function: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    from .routes import BY_NAME

    name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
    route = BY_NAME.get(name)
    if route is None:
        raise ValueError(f"function: expected one of {', '.join(BY_NAME)}, got {function!r}")
    return route(*args, **kwargs)


def explain(function: Callable[..., Any] | str, *args: Any, pass_: str = "fprop", **kwargs: Any) -> str:
    """:func:`plan`'s page for people: the problem, every candidate with its cost or refusal, and the choice."""
    return plan(function, *args, pass_=pass_, **kwargs).explain()


# ---- pins ----
def pin(function: Callable[..., Any] | str, *args: Any, kernel: str, pass_: str = "fprop", **kwargs: Any) -> Any:
    """From now on ``kernel`` runs this pass of this problem on this device, whatever it is predicted to cost.

    The problem is what the call's shapes, dtype, layout and arguments make of it; bias and values do not matter, the
    precision of float32 products does. ``use_kernel`` goes before pins. Where a sample's result must not depend on the
    batch it comes in (fprop, dgrad), a pin of a kernel with a family also decides the family of every other batch, and
    a later pin of another family replaces it.

    Args:
        function, args, kwargs, pass_: as for :func:`plan`.
        kernel: a name in the backend's table (``python -m fastconv info``); "aten" is PyTorch's own operator.

    Returns:
        The plan that now holds.

    Raises:
        ValueError: unknown function or pass.
        RuntimeError: the table lacks the kernel, or it refuses the problem; the message has its reason.
    """
    pins.add([_pin(_route(function, args, kwargs), pass_, kernel)])
    return plan(function, *args, pass_=pass_, **kwargs)


def unpin(function: Callable[..., Any] | str | None = None, *args: Any, pass_: str = "fprop", **kwargs: Any) -> None:
    """Let the planner choose again: for one problem, described as for :func:`pin`, or without arguments for all."""
    if function is None:
        settings.change(pins=frozenset())
    else:
        pins.drop([_pin(_route(function, args, kwargs), pass_, "")])


def pinned() -> list[Pin]:
    """The pins in force, those of other devices included."""
    return sorted(settings.current.pins, key=str)


def _pin(route: Any, pass_: str, kernel: str) -> Pin:
    plan = route.plan(pass_)  # which also judges the pass's name
    if getattr(route, "module", None) is None:
        raise RuntimeError(f"kernel: only PyTorch can run this: {plan.reason}")
    # The plan's, not the call's: the forward pass of a transposed convolution is a convolution's dgrad.
    return pins.pin_of(route.module, route.operation, plan.problem, plan.pass_, kernel, **route.plan_options())


def threads_for(device: torch.device) -> int:
    """How many CPU threads a plan may use: PyTorch's own setting, so that the two share one knob."""
    return torch.get_num_threads() if device.type == "cpu" else 0
