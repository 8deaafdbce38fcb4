"""Registers, stack, shared memory and spills of every kernel in the built ``_cuda`` module.

``python -m bench.resources`` reads the module with cuobjdump (the CUDA toolkit's, or PyPI's ``nvidia-cuda-cuobjdump``)
and prints a table by architecture. Exit status 1 if any kernel uses local memory: a stack frame or ``.local`` bytes are
what spilled registers, and arrays indexed at run time, turn into; or if the planner's table of registers is not what
was built. Then, by configuration of the dense kernels, what an SM of the planner's device holds of them.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from fastconv.units import table

USAGE = re.compile(r"Function (\S+):\s*\n\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
ARCHITECTURE = re.compile(r"^arch = (\S+)$", re.MULTILINE)


#: The planner's table, and the architecture that it is of.
TABLE = Path(__file__).parent.parent / "csrc" / "planner" / "registers.h"
TABLE_LINE = re.compile(r'\{"([^"]+)", (\d+)\}')
TABLE_ARCHITECTURE = "sm_90a"


class Usage(NamedTuple):
    """What one kernel of one architecture uses: registers a thread, bytes of stack and local memory a thread, and
    static shared memory a block."""

    architecture: str
    kernel: str
    registers: int
    stack: int
    shared: int
    local: int

    @property
    def spills(self) -> bool:
        """Whether anything lives in local memory."""
        return self.stack + self.local > 0


def find_tool(name: str) -> str | None:
    """A CUDA binary utility: on PATH, in the usual place, or from PyPI."""
    spec = importlib.util.find_spec("nvidia")
    roots = [f"{root}/cu13/bin/{name}" for root in (spec.submodule_search_locations if spec else [])]
    places = [shutil.which(name), f"/usr/local/cuda/bin/{name}", *roots]
    return next((place for place in places if place and Path(place).is_file()), None)


def demangle(names: list[str]) -> list[str]:
    """C++ names as people write them, without parameter lists; unchanged where c++filt is missing."""
    if not shutil.which("c++filt"):
        return names
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    shorter = (line.replace("fastconv::", "").replace("(anonymous namespace)::", "") for line in text.splitlines())
    return [re.sub(r"^void |\(.*$", "", re.sub(r"\([\w:]+\)(?=-?\d)", "", line)) for line in shorter]


def read_usage(module: Path, cuobjdump: str) -> list[Usage]:
    """Every kernel of every architecture in ``module``."""
    run = [cuobjdump, "--dump-resource-usage", str(module)]
    dump = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    sections = ARCHITECTURE.split(dump)
    rows = [(sections[i], *match) for i in range(1, len(sections), 2) for match in USAGE.findall(sections[i + 1])]
    kernels = demangle([row[1] for row in rows])
    usage = {Usage(row[0], kernel, *map(int, row[2:])) for row, kernel in zip(rows, kernels, strict=True)}
    return sorted(usage)


def misjudged(usage: list[Usage], table: str) -> list[str]:
    """A sentence for each line of the planner's table that is not the most registers of the kernels it names, up to the
    next multiple of 8, or that names none. Nothing if the table's architecture was not built.
    """
    built = [row for row in usage if row.architecture == TABLE_ARCHITECTURE]
    sentences = []
    for kernels, count in TABLE_LINE.findall(table) if built else ():
        most = max((row.registers for row in built if re.search(kernels, row.kernel)), default=0)
        if -(-most // 8) * 8 != int(count):
            found = f"was built with {most} registers" if most else "is no kernel's name"
            sentences.append(f"registers.h: {kernels!r}: {count} planned, {found}")
    return sentences


def occupancy() -> list[list[str]]:
    """A row for each kernel, dtype and pass of a large dense convolution, as the planner's table has it: registers a
    thread, blocks resident on an SM, their share of its threads, and what runs out first.
    """
    from fastconv import backends

    module = backends()["emulator"].module  # whose table is that of the GPU
    dense = {"n": 32, "c": 256, "k": 256, "input": [56, 56], "filter": [3, 3]}
    same = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}
    rows = [["configuration", "of", "pass", "registers", "blocks an SM", "occupancy", "runs out of"]]
    for dtype, math in (("float16", "ieee"), ("float32", "tf32"), ("float32", "tf32x3"), ("float32", "ieee")):
        problem = module.ConvProblem(**dense, **same, dtype=dtype, layout="nhwc")
        for pass_ in ("fprop", "dgrad", "wgrad"):
            for each in module.conv_plan(problem, pass_, math=math).candidates:
                cost = each.cost
                if each.accepted and cost.blocks_per_sm:
                    name = dtype if math == "ieee" else math
                    share = f"{cost.occupancy:.0%}"
                    row = [each.kernel, name, pass_, cost.registers, cost.blocks_per_sm, share, cost.occupancy_limit]
                    rows.append([str(cell) for cell in row])
    return rows


def main() -> int:
    """Print the tables; 1 if a kernel spills or the planner is wrong about one, 2 if there is nothing to read."""
    modules = sorted((Path(__file__).parent.parent / "fastconv").glob("_cuda*.so"))
    cuobjdump = find_tool("cuobjdump")
    if not modules or not cuobjdump:
        print("resources:", "no cuobjdump found" if modules else "no _cuda module was built", file=sys.stderr)
        return 2
    usage = read_usage(modules[0], cuobjdump)
    if not usage:
        print(f"resources: cuobjdump reports no kernels in {modules[0].name}", file=sys.stderr)
        return 2
    width = max(len(row.kernel) for row in usage)
    print(f"{'architecture':12}  {'kernel':{width}}  registers  shared B  stack B  local B")
    for row in usage:
        mark = "  SPILLS" if row.spills else ""
        print(
            f"{row.architecture:12}  {row.kernel:{width}}  {row.registers:9}  {row.shared:8}  "
            f"{row.stack:7}  {row.local:7}{mark}"
        )
    spilling = [row for row in usage if row.spills]
    print(f"{len(usage)} kernels, {len(spilling)} with local memory")
    print(table(occupancy(), right=frozenset({3, 4, 5})))
    wrong = misjudged(usage, TABLE.read_text())
    print("\n".join(wrong))
    return 1 if spilling or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
