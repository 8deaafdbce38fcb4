"""``python -m fastconv explain``: one problem as a page: the formula, its floor, the candidates, the plan.

Planning touches no device, so the CUDA backend's choice can be read on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from functools import partial
from types import ModuleType
from typing import Any

from fastconv import machine, units
from fastconv.activations import NAMES as ACTIVATIONS
from fastconv.backends import backends
from fastconv.cli.errors import CommandError, backend_module
from fastconv.transposed import transposed_size

DTYPES = ("float32", "float64", "float16", "bfloat16")
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

FORMULAS = {
    ("conv", "fprop"): "y[n,k,p,q] = Σ_crs  x[n, c, p·u + r·d − a, q·u + s·d − a] · w[k,c,r,s]",
    (
        "conv",
        "dgrad",
    ): "gx[n,c,h,w] = Σ_krs  gy[n, k, (h + a − r·d)/u, (w + a − s·d)/u] · w[k,c,r,s]   (if whole)",
    ("conv", "wgrad"): "gw[k,c,r,s] = Σ_npq  x[n, c, p·u + r·d − a, q·u + s·d − a] · gy[n,k,p,q]",
    ("conv", "bgrad"): "gb[k] = Σ_npq  gy[n,k,p,q]",
    ("max", "fprop"): "y[n,c,p,q] = max_rs  x[n, c, p·u + r·d − a, q·u + s·d − a]",
    ("max", "dgrad"): "gx[n,c,h,w] = Σ_pq  gy[n,c,p,q] where (h, w) won window (p, q)",
    ("max", "gather"): "ggy[n,c,p,q] = ggx[n, c, the winner of window (p, q)]",
    ("average", "fprop"): "y[n,c,p,q] = (1/m) Σ_rs  x[n, c, p·u + r − a, q·u + s − a]   (m: the divisor of the window)",
    ("average", "dgrad"): "gx[n,c,h,w] = Σ_pq  gy[n,c,p,q] / m(p,q) over the windows that hold (h, w)",
}
#: pass of a transposed convolution -> pass of the convolution that it transposes
TRANSPOSED = {"fprop": "dgrad", "dgrad": "fprop", "wgrad": "wgrad"}
#: No line of a page is longer, in characters.
WIDTH = 99

LETTERS = "u stride, d dilation, a padding"


def add_to(commands: argparse._SubParsersAction) -> None:
    """Register the command and its kinds of problem."""
    parser = commands.add_parser("explain", help="one problem: its floor, every candidate kernel, the plan")
    kinds = parser.add_subparsers(title="problems", metavar="KIND", required=True)
    # No abbreviations: --k would pass for --kernel where there is no --k.
    conv = kinds.add_parser("conv", help="a convolution", allow_abbrev=False)
    _add_conv(conv, ("fprop", "dgrad", "wgrad", "bgrad"))
    conv.add_argument("--residual", action="store_true", help="fprop adds a tensor like its result")
    conv.add_argument("--activation", choices=ACTIVATIONS, default="none", help="fprop applies it last")
    conv.set_defaults(build=_conv_plan)
    transposed = kinds.add_parser("conv_transpose", help="a transposed convolution", allow_abbrev=False)
    _add_conv(transposed, tuple(TRANSPOSED))
    transposed.add_argument("--output-padding", type=_extents, default=[0], metavar="O", help="default 0")
    transposed.set_defaults(build=_transposed_plan)
    pools = ("max_pool", "max", ("fprop", "dgrad", "gather")), ("avg_pool", "average", ("fprop", "dgrad"))
    for name, kind, passes in pools:
        pool = kinds.add_parser(name, help=f"{kind} pooling", allow_abbrev=False)
        _add_common(pool, passes)
        pool.add_argument(
            "--adaptive", type=_extents, metavar="P[xQ]", help="adaptive pooling to this output; the windows follow"
        )
        pool.add_argument("--ceil-mode", action="store_true", help="a last window may hang over the edge")
        if kind == "average":
            pool.add_argument("--count-exclude-pad", action="store_true", help="padding does not count in the divisor")
            pool.add_argument("--divisor", type=int, metavar="M", help="divide every window by M")
        pool.set_defaults(kind=kind, build=_pool_plan)


def _add_conv(parser: argparse.ArgumentParser, passes: tuple[str, ...]) -> None:
    _add_common(parser, passes)
    parser.add_argument("--k", type=int, default=64, metavar="K", help="output channels (default 64)")
    parser.add_argument("--groups", type=int, default=1)
    math = ("ieee", "tf32", "tf32x3")
    parser.add_argument("--math", choices=math, default="ieee", help="what float32 products are made of")
    parser.add_argument("--bias", action="store_true", help="fprop adds a bias")
    parser.set_defaults(kind="conv")


def _add_common(parser: argparse.ArgumentParser, passes: tuple[str, ...]) -> None:
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--n", type=int, default=8, metavar="N", help="batch (default 8)")
    add("--c", type=int, default=64, metavar="C", help="input channels (default 64)")
    add("--size", type=_extents, default=[56], metavar="H[xW]", help="input size, also as 56x28 (default 56)")
    add("--kernel", type=_extents, default=[3], metavar="R[xS]", help="window size (default 3)")
    add("--stride", type=_extents, metavar="U", help="default 1 for conv, the window for pooling")
    add("--padding", type=_extents, default=[0], metavar="A", help="default 0")
    add("--dilation", type=_extents, default=[1], metavar="D", help="default 1")
    add("--rank", type=int, choices=(1, 2, 3), default=2, help="spatial dimensions (default 2)")
    add("--dtype", choices=DTYPES, default="float32")
    add("--layout", choices=("nchw", "nhwc"), default="nchw")
    add("--pass", dest="pass_", choices=passes, default="fprop")
    add("--backend", choices=tuple(backends()), default="cpu")
    add("--only", default="", metavar="NAME", help="ask for this entry of the kernel table")
    add("--threads", type=int, default=0, help="CPU threads (default: all)")
    add("--workspace-limit", type=int, default=-1, metavar="BYTES", help="default: none")


def _extents(text: str) -> list[int]:
    if not re.fullmatch(r"\d+([x×,]\d+){0,2}", text):
        raise argparse.ArgumentTypeError(f"expected a size such as 3, 3x5 or 8x56x56, got {text!r}")
    return [int(part) for part in re.split("[x×,]", text)]


def run(options: argparse.Namespace) -> int:
    """Print the page; the exit status is 2 where the problem itself is impossible."""
    module = backend_module(options.backend)
    try:
        plan = options.build(module, options)
    except RuntimeError as error:  # the core's message names the argument, or lists each kernel's refusal
        raise CommandError(str(error), status=2) from None
    if options.build is _transposed_plan:
        print(
            f"{options.pass_} of a transposed convolution: of the convolution below, its input is y and its result x\n"
        )
    print(page(plan, options.kind, options.backend, getattr(options, "math", "ieee")))
    return 0


def _axes(options: argparse.Namespace, name: str, values: list[int]) -> list[int]:
    if len(values) not in (1, options.rank):
        raise CommandError(f"--{name}: expected 1 or {options.rank} numbers, got {len(values)}", status=2)
    return values * options.rank if len(values) == 1 else values


def _geometry(options: argparse.Namespace) -> dict[str, Any]:
    axes = partial(_axes, options)
    default_stride = [1] if options.kind == "conv" else options.kernel
    return {
        "n": options.n,
        "c": options.c,
        "input": axes("size", options.size),
        "stride": axes("stride", options.stride or default_stride),
        "padding": axes("padding", options.padding),
        "dilation": axes("dilation", options.dilation),
        "dtype": options.dtype,
        "layout": options.layout,
        ("filter" if options.kind == "conv" else "window"): axes("kernel", options.kernel),
    }


def _plan_options(options: argparse.Namespace) -> dict[str, Any]:
    return {"kernel": options.only, "workspace_limit": options.workspace_limit, "threads": options.threads}


def _conv_plan(module: ModuleType, options: argparse.Namespace) -> Any:
    problem = module.ConvProblem(**_geometry(options), k=options.k, groups=options.groups)
    epilogue = {"bias": options.bias, "residual": options.residual, "activation": options.activation}
    return module.conv_plan(problem, options.pass_, **epilogue, math=options.math, **_plan_options(options))


def _transposed_plan(module: ModuleType, options: argparse.Namespace) -> Any:
    given = _geometry(options)
    extra = _axes(options, "output-padding", options.output_padding)
    given["input"] = transposed_size(
        *(given[name] for name in ("input", "filter", "stride", "padding", "dilation")), extra
    )
    problem = module.ConvProblem(**{**given, "c": options.k}, k=options.c, groups=options.groups)
    if any(o >= s for o, s in zip(extra, given["stride"], strict=True)):
        raise CommandError(f"--output-padding: expected less than the stride {given['stride']}, got {extra}", status=2)
    return module.conv_plan(
        problem, TRANSPOSED[options.pass_], bias=options.bias, math=options.math, **_plan_options(options)
    )


def _pool_plan(module: ModuleType, options: argparse.Namespace) -> Any:
    further = {}
    if options.adaptive:
        further = {"adaptive_output": _axes(options, "adaptive", options.adaptive)}
    elif options.kind == "average":
        further = {"count_include_pad": not options.count_exclude_pad, "divisor_override": options.divisor}
    problem = module.PoolProblem(kind=options.kind, **_geometry(options), ceil_mode=options.ceil_mode, **further)
    # Training's forward: the winners are kept for the backward.
    return module.pool_plan(problem, options.pass_, offsets=options.kind == "max", **_plan_options(options))


def page(plan: Any, kind: str, backend: str, math: str = "ieee") -> str:
    """The page about ``plan``, a ConvPlan or PoolPlan of any backend; ``kind`` is conv, max or average, ``math`` what
    float32 products are made of. No line is longer than WIDTH.
    """
    peak = machine.cpu(plan.problem.dtype) if backend == "cpu" else machine.gpu(plan.problem.dtype, math=math)
    floor = peak.floor(plan.problem.flops(plan.pass_), plan.problem.bytes(plan.pass_))
    sections = [
        _filled(f"{plan.pass_} of {plan.problem!r}", "", "  "),
        _heading("What is computed") + _formula(plan, kind),
        _heading("The floor") + _floor(plan, peak, floor),
        _heading(f"The candidates of backend {backend}") + _candidates(plan, floor.microseconds),
        _heading("The plan") + _choice(plan),
    ]
    return "\n\n".join(sections)


def _filled(text: str, first: str, rest: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest)


def _heading(title: str) -> str:
    return f"{title}\n{'─' * len(title)}\n"


def _formula(plan: Any, kind: str) -> str:
    problem = plan.problem
    lines = [f"  {FORMULAS[kind, plan.pass_]}"]
    if kind != "conv" and problem.adaptive_output:
        lines.append("  where window p begins at ⌊p·H/P⌋ and ends before ⌈(p + 1)·H/P⌉, likewise q")
    if problem.rank != 2:
        lines.append(f"  (two axes shown, the problem has {problem.rank})")
    if kind == "conv" and plan.epilogue:
        lines.append(f"  and the epilogue {plan.epilogue}")
    lines.append(f"  with {LETTERS}; layout {problem.layout}, {problem.dtype}")
    rows = [
        [name, units.extents(shape), units.si(_product(shape) * BYTES[problem.dtype], "B")]
        for name, shape in _tensors(problem, kind)
    ]
    lines.append(units.table(rows, indent="    ", right=frozenset({2})))
    if kind == "conv" and plan.pass_ != "bgrad":
        lines.append(_as_gemm(problem, plan.pass_))
    return "\n".join(lines)


def _tensors(problem: Any, kind: str) -> list[tuple[str, list[int]]]:
    if kind == "conv":
        return [
            ("x, gx", [problem.n, problem.c, *problem.input]),
            ("w, gw", [problem.k, problem.c // problem.groups, *problem.filter]),
            ("y, gy", [problem.n, problem.k, *problem.output]),
        ]
    return [("x, gx", [problem.n, problem.c, *problem.input]), ("y, gy", [problem.n, problem.c, *problem.output])]


def _as_gemm(problem: Any, pass_: str) -> str:
    c, k = problem.c // problem.groups, problem.k // problem.groups
    taps, positions = _product(problem.filter), problem.n * _product(problem.output)
    rows, columns, depth = {
        "fprop": (positions, k, c * taps),
        "dgrad": (problem.n * _product(problem.input), c, k * taps),
        "wgrad": (k, c * taps, positions),
    }[pass_]
    repeated = f"{problem.groups} groups, each " if problem.groups > 1 else ""
    return f"  As a matrix product: {repeated}({rows} × {depth}) · ({depth} × {columns}), reduced over {depth}."


def _product(values: list[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def _floor(plan: Any, peak: machine.Machine, floor: machine.Floor) -> str:
    flops, traffic = plan.problem.flops(plan.pass_), plan.problem.bytes(plan.pass_)
    balance = peak.flops_per_second / peak.bytes_per_second
    rates = f"{units.si(peak.flops_per_second, 'FLOP/s')} and {units.si(peak.bytes_per_second, 'B/s')}"
    return "\n".join(
        [
            f"  work     {units.si(flops, 'FLOP')}, a multiply-add counted as two",
            f"  traffic  {units.si(traffic, 'B')}: each operand read once, the result written once",
            f"  ratio    {units.significant(flops / traffic if traffic else 0)} FLOP/B; the machine balances at "
            f"{units.significant(balance)}, so this is {floor.bound}-bound",
            _filled(f"machine  {peak.name}: {rates} ({peak.source})", "  ", " " * 11),
            f"  floor    {units.microseconds(floor.microseconds)}, the larger of arithmetic "
            f"{units.microseconds(floor.arithmetic)} and memory {units.microseconds(floor.memory)}",
        ]
    )


# ---- candidates ----
def _is_priced(candidate: Any, module: ModuleType) -> bool:
    return candidate.accepted and candidate.cost.microseconds < module.LAST_RESORT_MICROSECONDS


def _candidates(plan: Any, floor: float) -> str:
    module = sys.modules[type(plan).__module__]
    by_cost = sorted(plan.candidates, key=lambda each: each.cost.microseconds)
    priced = [each for each in by_cost if _is_priced(each, module)]
    text = "  Accepted, cheapest first by the planner's cost model:\n" + _costs(plan, priced, floor)
    others = [each.kernel for each in by_cost if each.accepted and each not in priced]
    if others:
        mark = "→  " if plan.is_aten else ""
        text += f"\n  {mark}{', '.join(others)}: the last resort, run only where nothing else can"
    if any(each.cost.blocks_per_sm for each in priced):
        text += (
            "\n  DRAM and L2: bytes moved. Cycles: those that the busiest SM computes at its peak, padding of"
            "\n  tiles included. Resident: blocks an SM holds, their share of its threads, what runs out first."
        )
    passed_over = [each for each in priced if each.kernel != plan.kernel]
    if passed_over:
        text += "\n  Passed over:\n" + _lines([(each.kernel, _why_not(plan, each)) for each in passed_over])
    refused = [(each.kernel, each.reason) for each in plan.candidates if not each.accepted]
    return text + ("\n  Refused:\n" + _lines(refused) if refused else "")


def _costs(plan: Any, priced: list[Any], floor: float) -> str:
    head = ["", "kernel", "predicted", "× floor", "DRAM", "L2", "cycles", "waves", "resident"]
    rows = [head]
    for each in priced:
        cost = each.cost
        row = ["→" if each.kernel == plan.kernel else "", each.kernel, units.microseconds(cost.microseconds)]
        row += [units.significant(cost.microseconds / floor) if floor else "", units.si(cost.bytes, "B")]
        if cost.blocks_per_sm:
            resident = f"{cost.blocks_per_sm}, {cost.occupancy:.0%} ({cost.occupancy_limit})"
            row += [units.si(cost.l2_bytes, "B"), f"{cost.cycles:,.0f}", f"{cost.waves:,.0f}", resident]
        else:
            row += [""] * 4
        rows.append(row)
    used = [i for i in range(len(head)) if any(row[i] for row in rows[1:]) or i == 0]
    rows = [[row[i] for i in used] for row in rows]
    return units.table(rows, indent="  ", right=frozenset(range(2, 8)))


def _why_not(plan: Any, other: Any) -> str:
    """Why an accepted kernel is not the choice, from the figures."""
    mine, theirs = plan.cost, other.cost
    if theirs.microseconds < mine.microseconds:
        return (
            f"adds up in another order than {plan.kernel}, the choice for a batch of 32: a sample's bits must not "
            "depend on the batch it comes in"
        )
    reasons = []
    for name, of_other, of_mine in (("cycles", theirs.cycles, mine.cycles), ("DRAM bytes", theirs.bytes, mine.bytes)):
        if of_mine and of_other > 1.02 * of_mine:
            reasons.append(f"{units.significant(of_other / of_mine)} × the {name}")
    because = ", ".join(reasons) or "a less efficient main loop"
    return f"{_longer(theirs.microseconds, mine.microseconds)}: {because}"


def _longer(a: float, b: float) -> str:
    if a < b:
        return f"is cheaper by {1 - a / b:.0%}"
    return f"takes {a / b - 1:.0%} longer" if a < 2 * b else f"takes {units.significant(a / b)} times as long"


def _lines(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(_filled(text, f"    {name.ljust(width)}  ", " " * (width + 6)) for name, text in rows)


# ---- the plan ----
def _choice(plan: Any) -> str:
    text = plan.kernel + (f": {plan.detail}" if plan.detail else "")
    if plan.is_aten:
        text += ": PyTorch's own operator, called by fastconv"
    lines = [_filled(text, "  ", "    "), f"  workspace  {units.si(plan.workspace_bytes, 'B')}"]
    found = [each for each in plan.candidates if each.kernel == plan.runner_up]
    if found and _is_priced(found[0], sys.modules[type(plan).__module__]):
        longer = _longer(found[0].cost.microseconds, plan.cost.microseconds)
        lines.append(f"  runner-up  {plan.runner_up}, {longer}")
    return "\n".join(lines)
