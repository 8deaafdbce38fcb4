"""``python -m bench counters``: what the CUDA kernels ask of memory, counted by the emulator; no GPU is needed.

A *sector* is 32 bytes of global memory, a *wavefront* one pass over the shared-memory banks. "× ideal" compares with
the fewest that could carry the bytes each warp asked for: 1.00 is a perfectly coalesced, conflict-free kernel. "× once"
compares the sectors with the problem's compulsory traffic: how often each byte is fetched or written, caches aside.
The counts are exact and repeatable, so they can be held to a budget.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import fastconv
from bench.cases import LAYOUTS, Case
from bench.layers import SUITES, select
from fastconv import units
from fastconv.backends import DTYPES

SECTOR = 32  # bytes
PASSES = ("forward", "gx", "gw")


@dataclass(frozen=True)
class Count:
    """What one kernel asked for in one pass of one layer; ratios are None where it asked for nothing."""

    layer: str
    shape: str
    pass_: str
    layout: str
    kernel: str
    blocks: int
    load_sectors: int
    load_over_ideal: float | None
    store_sectors: int
    store_over_ideal: float | None
    sectors_over_once: float | None
    shared_wavefronts: int
    shared_over_ideal: float | None
    barriers: int


def count(case: Case) -> Iterator[Count]:
    """Run ``case`` once through the emulator; a Count for each kernel that it launched."""
    module = fastconv.backends()["emulator"].module
    with fastconv.use_backend("emulator"):
        plans = case.plans()
        call = case.call(fastconv.functional)
        before = module.configure(count=True)
        try:
            module.reset_counters()
            call()
            counted = module.counters()
        finally:
            module.configure(**before)
    once = sum(plan.problem.bytes(plan.pass_) for plan in plans if plan.problem is not None)
    for kernel, row in counted.items():
        yield _count(case, kernel, row, once)


def _count(case: Case, kernel: str, row: dict, once: float) -> Count:
    def over(*spaces: str, unit: str) -> float | None:
        ideal = sum(row[space]["ideal"] for space in spaces)
        return sum(row[space][unit] for space in spaces) / ideal if ideal else None

    shared = ("shared_load", "shared_store", "shared_atomic")
    sectors = sum(row[space]["sectors"] for space in ("global_load", "global_store", "global_atomic"))
    return Count(
        layer=case.layer.name,
        shape=case.layer.shape,
        pass_=case.pass_,
        layout=case.layout,
        kernel=kernel,
        blocks=row["blocks"],
        load_sectors=row["global_load"]["sectors"],
        load_over_ideal=over("global_load", unit="sectors"),
        store_sectors=row["global_store"]["sectors"],
        store_over_ideal=over("global_store", unit="sectors"),
        sectors_over_once=sectors * SECTOR / once if once else None,
        shared_wavefronts=sum(row[space]["wavefronts"] for space in shared),
        shared_over_ideal=over(*shared, unit="wavefronts"),
        barriers=row["barriers"],
    )


def table(counts: Sequence[Count]) -> str:
    """The counts as plain text."""

    def ratio(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    rows = [
        ["layer", "shape", "pass", "layout", "kernel", "blocks", "load sectors", "× ideal", "store sectors", "× ideal",
         "× once", "wavefronts", "× ideal", "barriers"]
    ]  # fmt: skip
    for each in counts:
        rows.append(
            [each.layer, each.shape, each.pass_, each.layout, each.kernel, str(each.blocks),
             str(each.load_sectors), ratio(each.load_over_ideal), str(each.store_sectors), ratio(each.store_over_ideal),
             ratio(each.sectors_over_once), str(each.shared_wavefronts), ratio(each.shared_over_ideal),
             str(each.barriers)]
        )  # fmt: skip
    return units.table(rows, indent="", right=frozenset(range(5, 14)))


def main(arguments: Sequence[str]) -> int:
    """Count and print; ``--json FILE`` writes the counts too."""
    options = _parser().parse_args(arguments)
    emulator = fastconv.backends()["emulator"]
    if not emulator.available:
        print(f"bench: error: backend emulator: {emulator.reason}", file=sys.stderr)
        return 1
    try:
        layers = [layer.small(options.channels, options.size) for layer in select(options.suite, options.layers)]
    except ValueError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2
    counts = []
    for layer in layers:
        for pass_ in PASSES:
            for layout in LAYOUTS:
                # Pooling's only gradient is its backward.
                name = "backward" if layer.kind != "conv" and pass_ == "gx" else pass_
                case = Case(layer, name, layout, options.dtype, "cpu")
                if case.exists:
                    counts.extend(count(case))
    print(table(counts))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(each) for each in counts], indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench counters", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--suite", choices=tuple(SUITES), default="quick")
    add("--layers", default="", metavar="PARTS", help="only layers whose names contain one of these, comma-separated")
    add("--dtype", choices=tuple(DTYPES.values()), default="float32")
    add("--channels", type=int, default=32, help="layers are scaled down to about this many channels (default 32)")
    add("--size", type=int, default=16, help="and to images of this size (default 16)")
    add("--json", type=Path, metavar="FILE")
    return parser
