"""``fastconv.tune``: measures what the planner predicts, and pins what wins.

The planner's cost model orders kernels without running any, so that nothing is slow the first time. Tuning is for who
can spare a minute: every kernel that accepts a problem is timed on tensors like those it met, and the fastest is pinned
(pins.py). ``fastconv.plans.save`` keeps the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import functional, pins, repeats, routes, settings, units
from .pins import Pin
from .timing import measure

#: A rival must be faster than the planner's choice by this much to take its place: less is noise.
LEAST_GAIN = 0.03


@dataclass(frozen=True)
class Trial:
    """One kernel's time in microseconds: ``predicted`` by the planner (None: it has no opinion), and ``measured``."""

    kernel: str
    predicted: float | None
    measured: float


@dataclass(frozen=True)
class Tuned:
    """One pass of one problem: its ``pin``, what the planner had ``planned``, and every kernel tried."""

    pin: Pin
    problem: str
    planned: str
    trials: list[Trial]

    def measured(self, kernel: str) -> float:
        """Microseconds."""
        return next(trial.measured for trial in self.trials if trial.kernel == kernel)

    @property
    def gain(self) -> float:
        """How many times faster than the planner's choice."""
        return self.measured(self.planned) / self.measured(self.pin.kernel)

    def __str__(self) -> str:
        """The problem, then a line a kernel, the fastest first."""
        rows = [["", "kernel", "predicted", "measured", ""]]
        for trial in sorted(self.trials, key=lambda trial: trial.measured):
            notes = "the planner's choice" if trial.kernel == self.planned else ""
            mark = "→" if trial.kernel == self.pin.kernel else ""
            predicted = "" if trial.predicted is None else units.microseconds(trial.predicted)
            rows.append([mark, trial.kernel, predicted, units.microseconds(trial.measured), notes])
        return f"{self.pin.pass_} of {self.problem}\n" + units.table(rows, indent="  ", right=frozenset({2, 3}))


@dataclass(frozen=True)
class Report:
    """What :func:`tune` found; print it."""

    tuned: list[Tuned]
    untuned: list[str] = field(default_factory=list)  # what there was nothing to choose for, and why

    @property
    def changed(self) -> list[Tuned]:
        """Where the planner's choice was not the fastest."""
        return [each for each in self.tuned if each.pin.kernel != each.planned]

    def __str__(self) -> str:
        """Every trial, then the sum."""
        before = sum(each.measured(each.planned) for each in self.tuned)
        after = sum(each.measured(each.pin.kernel) for each in self.tuned)
        gain = f": {units.significant(before / after)} times as fast" if after else ""
        total = (
            f"{len(self.tuned)} pinned, {len(self.changed)} of them not the planner's choice; one of each took "
            f"{units.microseconds(before)} as planned, {units.microseconds(after)} as pinned{gain}"
        )
        return "\n\n".join([*map(str, self.tuned), "\n".join([*self.untuned, total])])


def tune(
    function: Callable[..., Any] | str, *args: Any, budget: float = 1.0, rounds: int = 30, **kwargs: Any
) -> Report:
    """Time every kernel that could run what a call needs, and pin the fastest of each.

    Calls ``function(*args, **kwargs)`` once, to see which convolutions and poolings it runs; where it records
    gradients, their backward passes are tuned too. Nothing is computed backward, and no parameter changes; what a
    forward changes (a batch norm's statistics in training mode) does.

    Rivals take turns; the median counts; what is faster than the planner's choice by less than 3 % is noise. PyTorch's
    own operator is timed beside them, and is pinned only where the planner lets it compete: on the CPU. On CUDA it is
    no more than a yardstick, for it promises neither the same bits each time nor that a sample's result does not depend
    on its batch. For the same reason a pin of fprop or dgrad decides, at every batch size, for the family of its kernel
    (see :func:`fastconv.plans.pin`): tuning one layer at two batch sizes leaves the later family.

    Args:
        function: a model, any function, or the name of one of :mod:`fastconv.functional`'s.
        args, kwargs: its arguments; their shapes, dtypes, layouts and devices make the problems.
        budget: seconds for a problem's trials on the CPU.
        rounds: the most samples of each kernel.

    Returns:
        A report to print. Progress goes to standard error where ``rich`` is installed.

    Raises:
        ValueError: an unknown name; no convolution or pooling was met.
        RuntimeError: the emulator is in use, whose time says nothing of a GPU; or ``use_kernel`` is, which goes
            before pins.
        Whatever the call itself raises.
    """
    call = _resolve(function)
    if settings.current.backend == "emulator":
        raise RuntimeError("backend: the emulator's time says nothing of a GPU's; tune on the device itself")
    if settings.current.kernel is not None:
        raise RuntimeError(f"kernel: use_kernel({settings.current.kernel!r}) is in force, and goes before pins")
    met, untuned = _meet(lambda: call(*args, **kwargs))
    if not met and not untuned:
        raise ValueError(f"function: {function!r} ran no convolution or pooling of fastconv; see fastconv.convert")
    tuned = []
    with torch.no_grad():
        for passes in _with_progress(met):
            tuned += _choose(passes, [each.race(rounds, budget) for each in passes])
    pins.add([each.pin for each in tuned])
    return Report(tuned, untuned)


def _resolve(function: Callable[..., Any] | str) -> Callable[..., Any]:
    if not isinstance(function, str):
        return function
    if function not in routes.BY_NAME:
        raise ValueError(f"function: expected a callable or one of {', '.join(routes.BY_NAME)}, got {function!r}")
    return getattr(functional, function)


# ---- what a call runs ----
def _meet(call: Callable[[], object]) -> tuple[list[list[_Met]], list[str]]:
    """What a call plans: the passes of each problem, and a line for each call that is not ours to plan."""
    routes.routes.clear()  # they are only a cache; what fills it now is what the call needs
    repeats.known.clear()
    call()
    met: dict[Any, dict[str, _Met]] = {}
    untuned = []
    for route in list(routes.routes.values()):
        if getattr(route, "module", None) is None:
            untuned.append(route.plan("fprop").explain().rstrip())
            continue
        for each in _MetConv.all_of(route) if route.operation == "conv" else _MetPool.all_of(route):
            met.setdefault(each.pin("").problem, {})[each.pass_] = each
    return [list(passes.values()) for passes in met.values()], untuned


def _with_progress(items: list[Any]) -> Iterable[Any]:
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return items
    return track(items, "tuning", console=Console(stderr=True), transient=True)


# ---- choosing ----
Times = dict[str, float]  # kernel -> microseconds


def _choose(passes: list[_Met], races: list[list[Trial]]) -> list[Tuned]:
    """The winner of each pass of one problem."""
    planned = [each.plan().kernel for each in passes]
    # What the planner would not choose by its cost is not chosen by its time, either: PyTorch's operator on CUDA.
    times = [{each.kernel: each.measured for each in trials if each.predicted is not None} for trials in races]
    if passes[0].both_or_neither and all("aten" in each for each in times):
        times = _both_or_neither(planned, times)
    tuned = []
    for each, kernel, rivals, trials in zip(passes, planned, times, races, strict=True):
        if not rivals:
            continue  # only PyTorch takes it, and not by choice
        best = min(rivals, key=rivals.__getitem__)
        if rivals.get(kernel, float("inf")) <= rivals[best] * (1 + LEAST_GAIN):
            best = kernel
        tuned.append(Tuned(each.pin(best), repr(each.problem), kernel, trials))
    return tuned


def _both_or_neither(planned: list[str], times: list[Times]) -> list[Times]:
    """Either PyTorch's operator runs all passes or none (Pooling.is_native): leaves what is left to choose from."""
    natives = [{kernel: time for kernel, time in each.items() if kernel != "aten"} for each in times]
    theirs, ours = sum(each["aten"] for each in times), sum(min(each.values()) for each in natives)
    aten_is_planned = "aten" in planned
    aten = theirs <= ours * (1 + LEAST_GAIN) if aten_is_planned else theirs * (1 + LEAST_GAIN) < ours
    return [{"aten": each["aten"]} for each in times] if aten else natives


# ---- how each pass is run by each kernel ----
class _Met:
    """One pass to tune; ``options`` are the rest of its plan's key in its route."""

    both_or_neither = False

    def __init__(self, route: Any, pass_: str, *options: bool) -> None:
        self.route, self.pass_, self.options = route, pass_, options

    @property
    def problem(self) -> Any:
        return self.route.bias_problem if self.pass_ == "bgrad" else self.route.problem

    def pin(self, kernel: str) -> Pin:
        route = self.route
        return pins.pin_of(route.module, route.operation, self.problem, self.pass_, kernel, **route.plan_options())

    def plan(self, kernel: str = "") -> Any:
        """The module's plan, whatever is pinned."""
        make = getattr(self.route.module, f"{self.route.operation}_plan")
        return make(self.problem, self.pass_, kernel=kernel, **self.route.plan_options(*self.options))

    def race(self, rounds: int, budget: float) -> list[Trial]:
        """Time every kernel that accepts."""
        operands, device = self.operands(), self.route.device
        candidates = [each for each in self.plan().candidates if each.accepted]
        plans = [self.plan(each.kernel) for each in candidates]
        runs = [self.aten() if plan.is_aten else self.native(plan) for plan in plans]
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            samples = measure([partial(run, *operands) for run in runs], device.type, rounds, budget)
        last_resort = self.route.module.LAST_RESORT_MICROSECONDS
        trials = []
        for candidate, sample in zip(candidates, samples, strict=True):
            predicted = candidate.cost.microseconds
            trials.append(Trial(candidate.kernel, None if predicted >= last_resort else predicted, sample.median))
        return trials

    def random(self, which: str) -> Tensor:
        """A tensor like the route's "x", "w", "y" or "result"."""
        shape, strides = getattr(self.route, f"{which}_shape"), getattr(self.route, f"{which}_strides")
        return torch.empty_strided(shape, strides, dtype=self.route.dtype, device=self.route.device).normal_()


def _trains(route: Any) -> bool:
    """Whether a call of the route recorded a gradient: only then was it asked whether the kernels are ours."""
    return "is_native" in vars(route)


class _MetConv(_Met):
    @classmethod
    def all_of(cls, route: Any) -> list[_Met]:
        bias = any(with_bias for _, with_bias in route._plans)
        others = [each for each in ("fprop", "dgrad", "wgrad") if each != route.forward_pass]
        backward = [*others, *(["bgrad"] if bias else [])] if _trains(route) else []
        return [cls(route, route.forward_pass, bias), *(cls(route, pass_, False) for pass_ in backward)]

    def operands(self) -> tuple[Tensor | None, ...]:
        a, b = {"fprop": "xw", "dgrad": "yw", "wgrad": "xy", "bgrad": ("result", "")}[self.pass_]
        bias = torch.zeros(self.route.result_shape[1], dtype=self.route.dtype, device=self.route.device)
        return self.random(a), self.random(b) if b else None, bias if self.options[0] else None

    def native(self, plan: Any) -> Callable[..., object]:
        return self.route.launch_of(plan, self.pass_)

    def aten(self) -> Callable[..., object]:
        route = self.route
        if self.pass_ == route.forward_pass:
            return route.torch
        if self.pass_ == "bgrad":
            return lambda gy, *_: route.aten_bgrad(gy)
        run = {"fprop": route.aten_fprop, "dgrad": route.aten_dgrad, "wgrad": route.aten_wgrad}[self.pass_]
        return lambda a, b, _: run(a, b)


class _MetPool(_Met):
    @classmethod
    def all_of(cls, route: Any) -> list[_Met]:
        trains, indices = _trains(route), any(with_indices for *_, with_indices in route._plans)
        fprop = cls(route, "fprop", trains and route.kind == "max", indices)
        return [fprop, cls(route, "dgrad", False, False)] if trains else [fprop]

    @property
    def both_or_neither(self) -> bool:
        return _trains(self.route)

    def operands(self) -> tuple[Tensor, ...]:
        if self.pass_ == "fprop":
            return (self.random("x"),)
        return (self.random("y"), *([self.offsets()] if self.route.kind == "max" else []))

    def offsets(self) -> Tensor:
        """The winning taps that one of our kernels stores."""
        fprop = _MetPool(self.route, "fprop", True, False)
        kernel = next(each.kernel for each in fprop.plan().candidates if each.accepted and each.kernel != "aten")
        return fprop.native(fprop.plan(kernel))(self.random("x"))[1]

    def native(self, plan: Any) -> Callable[..., object]:
        return self.route.launch_of(plan, self.pass_, *self.options)

    def aten(self) -> Callable[..., object]:
        route = self.route
        if self.pass_ == "fprop":
            return partial(route.torch_max, indices=any(self.options)) if route.kind == "max" else route.torch
        if route.kind == "average":
            return route.aten_average_backward
        with torch.enable_grad():
            x = self.random("x").requires_grad_()
            y = route.torch(x)
        return lambda gy, _: torch.autograd.grad(y, x, gy, retain_graph=True)
