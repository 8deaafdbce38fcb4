"""``python -m fastconv demo``: options, presets, and the check that the extra is installed."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from fastconv.backends import backends
from fastconv.cli.errors import CommandError

EXTRA = ("rich", "sklearn", "matplotlib")

# (epochs, training digits, the accuracy that CI relies on): in full, cut short, and through the emulator, which takes
# some tenths of a second for a step.
FULL, QUICK, EMULATED = (12, None, 0.97), (2, 480, 0.5), (3, 480, 0.6)


def add_to(commands: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = commands.add_parser("demo", help="train LeNet-5 on real digits beside its torch.nn twin")
    add = parser.add_argument
    add("--backend", choices=("auto", *backends()), default="auto", help="auto: the GPU if there is one, else the CPU")
    add("--epochs", type=_positive, help=f"default {FULL[0]}; {EMULATED[0]} on the emulator")
    add("--batch-size", type=_positive, default=32)
    add("--seed", type=int, default=0)
    add("--kernel", metavar="NAME", help="instead of the planner's choice; native: never PyTorch's own operators")
    add("--quick", action="store_true", help="a few seconds: fewer digits and epochs, and a lower bar")
    add(
        "--threshold",
        type=float,
        metavar="ACCURACY",
        help="exit status 1 below this test accuracy",
    )
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="where demo.png goes (default out)")
    add("--json", action="store_true", help="write the figures to DIR/demo.json")
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def run(options: argparse.Namespace) -> int:
    """Train; the exit status is 1 if the accuracy stays below the threshold."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(f"the demo needs {', '.join(missing)}: pip install fastconv[demo]")
    backend = _choose(options.backend)
    from fastconv import demo  # only now: it imports the extra

    epochs, count, threshold = QUICK if options.quick else EMULATED if backend == "emulator" else FULL
    settings = demo.Settings(
        backend=backend,
        kernel=options.kernel,
        epochs=options.epochs or epochs,
        batch_size=options.batch_size,
        seed=options.seed,
        train_count=count,
        threshold=threshold if options.threshold is None else options.threshold,
        out=options.out,
        json=options.json,
    )
    try:
        figures = demo.run(settings)
    except (ValueError, RuntimeError) as error:
        if not str(error).startswith("kernel: "):
            raise
        raise CommandError(str(error), status=2) from None  # --kernel is unknown, or refuses a layer
    if not figures["passed"]:
        reached = figures["test_accuracy"]["fastconv"]
        print(f"fastconv: test accuracy {reached:.4f} is below {figures['threshold']}", file=sys.stderr)
    return 0 if figures["passed"] else 1


def _choose(name: str) -> str:
    if name == "auto":
        return "cuda" if backends()["cuda"].available else "cpu"
    if not backends()[name].available:
        raise CommandError(f"backend {name}: {backends()[name].reason}")
    return name
