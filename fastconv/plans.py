"""Plans: which kernel runs a pass of a problem. The compiled modules choose; this adds PyTorch's own operator for what
no module takes, the settings in force, and :func:`plan` and :func:`explain` for people.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from . import settings

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
    plan = make(problem, pass_, kernel=_forced(module, operation, pass_, chosen.kernel), **options)
    if plan.is_aten and chosen.kernel == "native":
        native = [each for each in plan.candidates if each.accepted and each.kernel != "aten"]
        if not native:
            raise RuntimeError(f"kernel: no native kernel accepts this problem\n{plan.explain()}")
        best = min(native, key=lambda each: each.cost.microseconds)
        plan = make(problem, pass_, kernel=best.kernel, **options)
    if plan.is_aten:
        note_aten(plan)
    return plan


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
    from .routes import BY_NAME

    name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
    route = BY_NAME.get(name)
    if route is None:
        raise ValueError(f"function: expected one of {', '.join(BY_NAME)}, got {function!r}")
    return route(*args, **kwargs).plan(pass_)


def explain(function: Callable[..., Any] | str, *args: Any, pass_: str = "fprop", **kwargs: Any) -> str:
    """:func:`plan`'s page for people: the problem, every candidate with its cost or refusal, and the choice."""
    return plan(function, *args, pass_=pass_, **kwargs).explain()


def threads_for(device: torch.device) -> int:
    """How many CPU threads a plan may use: PyTorch's own setting, so that the two share one knob."""
    return torch.get_num_threads() if device.type == "cpu" else 0
