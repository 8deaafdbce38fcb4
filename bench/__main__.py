"""``python -m bench``: time a suite beside torch; also ``bench counters`` (counters.py) and ``bench gpu`` (gpu.py)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import fastconv
from bench import counters, environment, gpu, report, suite, timers
from bench.cases import LAYOUTS, PASSES
from bench.layers import SUITES, select
from bench.timers import CLOCKS
from fastconv.backends import DTYPES

COMMANDS = {"counters": counters.main, "gpu": gpu.main}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite, print its table, write its files; the exit status is 1 if nothing could be measured."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:])
    options = _parser().parse_args(arguments)
    if options.clock == "cpu" and (options.threads != 1 or options.device != "cpu"):
        print("bench: error: clock: cpu sees the calling thread alone: --device cpu --threads 1", file=sys.stderr)
        return 2
    if options.threads:
        torch.set_num_threads(options.threads)
    if not fastconv.backends()[options.device].available:
        print(f"bench: error: backend {options.device}: {fastconv.backends()[options.device].reason}", file=sys.stderr)
        return 1
    try:
        layers = [each.with_batch(options.batch) for each in select(options.suite, options.layers)]
        with fastconv.use_kernel(options.kernel):  # an unknown name is an error before anything runs
            pass
    except ValueError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2
    told = options.device == "cpu" and timers.set_malloc(options.malloc)
    rows = []
    for row in suite.run(layers, _options(options)):
        rows.append(row)
        print(progress(row), flush=True)
    facts = environment.describe(options.device) | {"clock": options.clock}
    facts["malloc"] = timers.MALLOC[options.malloc if told else "libc"]
    print(f"\n{report.table(rows)}\n")
    print("\n".join(report.summary(rows)))
    for path in report.write(rows, facts, options.out):
        print(path)
    return 0 if any(row.ratio for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="Time fastconv beside torch, or see `bench counters -h` and `bench gpu -h`."
    )
    add = parser.add_argument
    add("--suite", choices=tuple(SUITES), default="quick")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="default out/bench")
    add("--layers", default="", metavar="PARTS", help="only layers whose names contain one of these, comma-separated")
    add("--dtype", choices=tuple(DTYPES.values()), default="float32")
    add("--passes", type=_subset(PASSES), default=("forward", "backward"), metavar="LIST", help=", ".join(PASSES))
    add("--layouts", type=_subset(LAYOUTS), default=LAYOUTS, metavar="LIST", help=", ".join(LAYOUTS))
    add("--kernel", metavar="NAME", help="force this kernel (see fastconv.use_kernel); native: any but PyTorch's")
    add("--batch", type=int, metavar="N", help="samples (default: each layer's own; one in the networks, on the CPU)")
    add("--bias", action="store_true", help="convolutions with a bias")
    add("--threads", type=int, help="CPU threads of both (default: torch's)")
    add("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: only the thread's own time, with --threads 1")
    help_malloc = "; ".join(f"{choice}: {meaning}" for choice, meaning in timers.MALLOC.items())
    add("--malloc", choices=tuple(timers.MALLOC), default="keep", help=f"what the C library does: {help_malloc}")
    add("--rounds", type=int, default=60, help="interleaved rounds at most (default 60)")
    return parser


def _subset(known: Sequence[str]):
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        unknown = [each for each in chosen if each not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"expected a list of {', '.join(known)}, got {text!r}")
        return chosen

    return parse


def _options(options: argparse.Namespace) -> suite.Options:
    return suite.Options(
        device=options.device,
        dtype=options.dtype,
        passes=options.passes,
        layouts=options.layouts,
        rounds=options.rounds,
        clock=options.clock,
        kernel=options.kernel,
        bias=options.bias,
    )


def progress(row: suite.Row) -> str:
    """One line while the suite runs."""
    what = f"{row.layer:26} {row.pass_:8} {row.layout}"
    return f"{what}  {row.note}" if row.note else f"{what}  {row.ratio:6.2f}×  {row.kernel}"


if __name__ == "__main__":
    sys.exit(main())
