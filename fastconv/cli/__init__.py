"""The command line: ``python -m fastconv demo | info | explain``.

``info`` and ``explain`` need nothing beyond the base install; ``demo`` needs the ``[demo]`` extra and says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fastconv.cli import demo, explain, info
from fastconv.cli.errors import CommandError


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand; each sets ``run``, a function from its options to an exit status."""
    parser = argparse.ArgumentParser(prog="fastconv", description="Convolution and pooling kernels for PyTorch.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, info, explain):
        command.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 it failed, 2 it was asked for wrongly (argparse's own)."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except CommandError as error:
        print(f"fastconv: error: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        sys.stderr.close()
        return 0
