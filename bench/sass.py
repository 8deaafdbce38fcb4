"""What the main loop of every tensor-core kernel in the built ``_cuda`` module issues, from its SASS.

``python -m bench.sass [ARCHITECTURE]`` disassembles the module (sm_80 unless told) with cuobjdump, finds in each kernel
the loop with the most HMMA, and prints its instructions by kind. What a forward branch may jump over (a change of tap,
every few stages) is counted apart, as ``seldom``. Exit status 1 if a tensor-core kernel has no loop with HMMA, copies
that are not LDGSTS (but for two-byte ones, which cp.async does not have), loads from shared memory byte by byte, or, on
sm_80 where no mma waits for its operands to be rounded and copies are whole, a third or more of address arithmetic.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from bench.resources import demangle, find_tool

FUNCTION = re.compile(r"^\s*Function : (\S+)$", re.MULTILINE)
INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);", re.MULTILINE)
PREDICATED = re.compile(r"/\*[0-9a-f]{4,}\*/\s+@!?U?P")

#: kind -> opcodes (the part before the first dot). All others compute addresses, predicates and counters.
KINDS = {
    "mma": ("HMMA", "IMMA"),
    "ldmatrix": ("LDSM",),
    "copy": ("LDGSTS", "LDGDEPBAR", "DEPBAR", "LDG"),
    "shared": ("LDS", "STS"),
    "convert": ("F2FP", "F2F", "FSETP", "FADD"),
    "control": ("BAR", "BRA", "WARPSYNC", "BSSY", "BSYNC", "NOP", "ERRBAR"),
}
KIND_OF = {opcode: kind for kind, opcodes in KINDS.items() for opcode in opcodes}

#: Kernels that run on tensor cores.
TENSOR = ("kernels::igemm_", "kernels::depthwise_toeplitz<", "kernels::separable")

#: Kernels of 16-bit types that gather in copies of 16 bytes.
LEAN = re.compile(r"Igemm(Gather|Wgrad)<b?f16, 0, .*, 16> >$")
LEAN_ARCHITECTURE = "sm_80"


class Instruction(NamedTuple):
    """One SASS instruction: its address, opcode with suffixes, operands, and whether it is predicated."""

    address: int
    opcode: str
    operands: str
    predicated: bool

    @property
    def kind(self) -> str:
        """Its row in the table."""
        return KIND_OF.get(self.opcode.partition(".")[0], "address")

    @property
    def target(self) -> int | None:
        """Where a branch goes."""
        found = re.search(r"0x([0-9a-f]+)", self.operands) if self.opcode.startswith("BRA") else None
        return int(found.group(1), 16) if found else None


class Loop(NamedTuple):
    """The instructions of a loop's body: issued in every round, and those that a branch may skip, by kind."""

    always: Counter[str]
    seldom: int

    @property
    def issued(self) -> int:
        """Instructions of a round."""
        return sum(self.always.values())


def disassemble(module: Path, cuobjdump: str, architecture: str) -> dict[str, list[Instruction]]:
    """Kernel -> its instructions."""
    run = [cuobjdump, "-sass", "-arch", architecture, str(module)]
    dump = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    parts = FUNCTION.split(dump)
    found = {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        found[name] = [
            Instruction(int(match[1], 16), match[2], match[3], bool(PREDICATED.match(match[0].strip())))
            for match in INSTRUCTION.finditer(text)
        ]
    return found


def main_loop(code: list[Instruction]) -> Loop | None:
    """The tightest of the loops that have the most HMMA; None where there is no HMMA in a loop.

    What may be skipped counts as seldom unless it copies: only the last stages skip their copies.
    """
    backward = [(each.target, each.address) for each in code if each.target is not None and each.target < each.address]

    def body(span: tuple[int, int]) -> list[Instruction]:
        return [each for each in code if span[0] <= each.address <= span[1]]

    def multiplies(span: tuple[int, int]) -> int:
        return sum(each.kind == "mma" for each in body(span))

    spans = [span for span in backward if multiplies(span)]
    if not spans:
        return None
    most = max(map(multiplies, spans))
    loop = body(min((span for span in spans if multiplies(span) == most), key=lambda span: span[1] - span[0]))
    skipped: set[int] = set()
    for branch in loop:
        if branch.predicated and branch.target is not None and branch.address < branch.target <= loop[-1].address:
            region = [each for each in loop if branch.address < each.address < branch.target]
            if not any(each.kind in ("mma", "copy") for each in region):
                skipped |= {each.address for each in region}
    return Loop(Counter(each.kind for each in loop if each.address not in skipped), len(skipped))


def main() -> int:
    """Print the table; 1 if a kernel breaks a rule, 2 if there is nothing to read."""
    modules = sorted((Path(__file__).parent.parent / "fastconv").glob("_cuda*.so"))
    cuobjdump = find_tool("cuobjdump")
    if not modules or not cuobjdump:
        print("sass:", "no cuobjdump found" if modules else "no _cuda module was built", file=sys.stderr)
        return 2
    architecture = sys.argv[1] if len(sys.argv) > 1 else "sm_80"
    kernels = disassemble(modules[0], cuobjdump, architecture)
    names = dict(zip(kernels, demangle(list(kernels)), strict=True))
    tensor = {names[name]: code for name, code in kernels.items() if names[name].startswith(TENSOR)}
    kinds = [*KINDS, "address"]
    print(f"{'kernel':96}  {'  '.join(f'{kind:>8}' for kind in kinds)}  seldom  mma share  address share")
    broken = []
    for name, code in sorted(tensor.items()):
        loop = main_loop(code)
        if loop is None:
            broken.append(f"{name}: no HMMA in a loop")
            continue
        address = loop.always["address"] / loop.issued
        opcodes = {each.opcode for each in code}
        if not any(each.startswith("LDGSTS") for each in opcodes) and not name.endswith(", 2> >"):
            broken.append(f"{name}: no LDGSTS")
        if any(each.startswith(("LDS.U8", "LDS.S8")) for each in opcodes):
            broken.append(f"{name}: byte loads from shared memory")
        if architecture == LEAN_ARCHITECTURE and LEAN.search(name) and address >= 1 / 3:
            broken.append(f"{name}: {address:.2f} address arithmetic")
        counts = "  ".join(f"{loop.always[kind]:8}" for kind in kinds)
        print(f"{name:96}  {counts}  {loop.seldom:6}  {loop.always['mma'] / loop.issued:9.2f}  {address:13.2f}")
    print(f"{len(tensor)} kernels, {len(broken)} complaints", *broken, sep="\n")
    return 1 if broken or not tensor else 0


if __name__ == "__main__":
    sys.exit(main())
