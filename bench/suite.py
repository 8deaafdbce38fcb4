"""From a list of layers to rows: every layer, pass and layout, timed beside torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional as torch_functional

import fastconv
from bench.cases import Case
from bench.layers import Layer
from bench.timers import Samples, measure
from fastconv import machine


@dataclass(frozen=True)
class Row:
    """One measurement. Times are microseconds of a call; ``note`` says why there are none."""

    layer: str
    shape: str
    pass_: str
    layout: str
    dtype: str
    kernel: str = ""  # of each of the planner's passes that ran
    fastconv_us: float | None = None  # the best round on the CPU, the median on a GPU: see `statistic`
    torch_us: float | None = None
    ratio: float | None = None  # torch's time over fastconv's: above 1 fastconv is faster
    statistic: str = ""
    fastconv_best_us: float | None = None
    fastconv_median_us: float | None = None
    torch_best_us: float | None = None
    torch_median_us: float | None = None
    gflops: float | None = None  # fastconv's, GFLOP/s
    gbytes: float | None = None  # fastconv's compulsory traffic, GB/s
    floor_us: float | None = None
    of_floor: float | None = None  # the floor over fastconv's time: 1 would be perfect
    error: float | None = None  # against float64, relative to the largest value
    torch_error: float | None = None
    rounds: int = 0
    repetitions: int = 0
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON and CSV; ``pass_`` becomes ``pass``."""
        return {name.rstrip("_"): value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Options:
    """How to run a suite. ``kernel`` is given to ``fastconv.use_kernel``."""

    device: str = "cpu"
    dtype: str = "float32"
    passes: tuple[str, ...] = ("forward", "backward")
    layouts: tuple[str, ...] = ("nchw", "nhwc")
    rounds: int = 60
    kernel: str | None = None
    budget: float = 2.0  # seconds of rounds a row, on the CPU
    clock: str = "wall"  # a name in timers.CLOCKS
    bias: bool = False  # convolutions with one


def cases(layers: Iterable[Layer], options: Options) -> list[Case]:
    """Every case of a run, in the order of the report."""
    found = [
        Case(layer.on(options.device, options.bias), pass_, layout, options.dtype, options.device)
        for layer in layers
        for pass_ in options.passes
        for layout in options.layouts
    ]
    return [case for case in found if case.exists]


def run(layers: Iterable[Layer], options: Options) -> Iterator[Row]:
    """Measure; rows come as they are done."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        with fastconv.use_kernel(options.kernel):
            for case in cases(layers, options):
                yield run_case(case, options)
    finally:
        torch.backends.cudnn.benchmark = before


def run_case(case: Case, options: Options) -> Row:
    """One row. What torch or a forced kernel refuses becomes a note, so that the rest of the suite goes on."""
    what = case.layer.name, case.layer.shape, case.pass_, case.layout, case.dtype
    try:
        plans = case.plans()
        calls = [case.call(fastconv.functional), case.call(torch_functional)]
        errors = case.errors(*calls)
        samples = measure(calls, case.device, options.rounds, options.budget, options.clock)
    except RuntimeError as refusal:
        return Row(*what, note=str(refusal).strip().splitlines()[0])
    return _row(case, what, plans, samples, errors)


def _row(case: Case, what: tuple[str, ...], plans: list[Any], samples: list[Samples], errors: list[float]) -> Row:
    ours, theirs = samples
    statistic = "median" if case.device == "cuda" else "best"
    time, torch_time = (getattr(each, statistic) for each in (ours, theirs))
    figures: dict[str, float] = {}
    problems = [(plan.problem, plan.pass_) for plan in plans if plan.problem is not None]
    if problems:
        flops = sum(problem.flops(pass_) for problem, pass_ in problems)
        traffic = sum(problem.bytes(pass_) for problem, pass_ in problems)
        peak = _peak(case)
        floor = sum(peak.floor(problem.flops(pass_), problem.bytes(pass_)).microseconds for problem, pass_ in problems)
        figures = {"gflops": flops / time / 1e3, "gbytes": traffic / time / 1e3, "floor_us": floor}
        figures["of_floor"] = floor / time
    return Row(
        *what,
        kernel=" + ".join(plan.kernel for plan in plans),
        fastconv_us=time,
        torch_us=torch_time,
        ratio=torch_time / time,
        statistic=statistic,
        fastconv_best_us=ours.best,
        fastconv_median_us=ours.median,
        torch_best_us=theirs.best,
        torch_median_us=theirs.median,
        error=errors[0],
        torch_error=errors[1],
        rounds=len(ours.microseconds),
        repetitions=ours.repetitions,
        **figures,
    )


def _peak(case: Case) -> machine.Machine:
    if case.device == "cuda":
        return machine.gpu(case.dtype, torch.cuda.get_device_name())
    return machine.cpu(case.dtype)
