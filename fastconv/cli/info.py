"""``python -m fastconv info``: what this installation can do, with versions, and why anything is missing."""

from __future__ import annotations

import argparse
import json
import os
import platform
from typing import Any

import torch

import fastconv
from fastconv import results, units
from fastconv.backends import OPERATIONS, Backend


def add_to(commands: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = commands.add_parser("info", help="backends, architectures, kernels, versions, and what is missing")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    facts = gather()
    print(json.dumps(facts, indent=2) if options.json else render(facts))
    return 0


def gather() -> dict[str, Any]:
    """Everything that the report says, as plain data: ``versions``, ``machine`` and ``backends``."""
    return {
        "versions": versions(),
        "machine": machine(),
        "backends": {name: describe(each) for name, each in fastconv.backends().items()},
    }


def versions() -> dict[str, str]:
    """The versions that a bug report needs."""
    found = {"fastconv": fastconv.__version__, "torch": torch.__version__, "python": platform.python_version()}
    found["torch built for CUDA"] = torch.version.cuda or "no (a CPU build)"
    if torch.backends.cudnn.is_available():
        found["cuDNN"] = str(torch.backends.cudnn.version())
    return found


def machine() -> dict[str, str]:
    """The processor as torch sees it, and the GPUs."""
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "CPU": f"{os.cpu_count()} logical cores, torch uses {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}",
    }
    facts["large CPU results"] = results.describe()
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = units.si(properties.total_memory, "B")
        facts[f"GPU {index}"] = f"{properties.name}, sm_{properties.major}{properties.minor}, {memory}"
    return facts


def describe(backend: Backend) -> dict[str, Any]:
    """One backend: whether it can run here and if not why, its devices, details and kernel tables."""
    return {
        "available": backend.available,
        "reason": backend.reason,
        "devices": backend.devices,
        "details": backend.details,
        "kernels": {operation: dict(backend.kernels(operation)) for operation in OPERATIONS},
    }


def render(facts: dict[str, Any]) -> str:
    """The report as text."""
    width = max(len(key) for part in ("versions", "machine") for key in facts[part])
    lines = ["fastconv: convolution and pooling kernels for PyTorch", ""]
    for part in ("versions", "machine"):
        lines += [f"  {key.ljust(width)}  {value}" for key, value in facts[part].items()]
    for name, facts_of_one in facts["backends"].items():
        lines += ["", *_render_backend(name, facts_of_one)]
    return "\n".join(lines)


def _render_backend(name: str, facts: dict[str, Any]) -> list[str]:
    state = "ready" if facts["available"] else f"not available: {facts['reason']}"
    lines = [f"backend {name}: {state}"]
    details = {"devices": ", ".join(facts["devices"]), **facts["details"]}
    rows = [[key, value] for key, value in details.items() if value]
    if rows:
        lines.append(units.table(rows))
    for operation, kernels in facts["kernels"].items():
        if kernels:
            rows = [[kernel, summary] for kernel, summary in kernels.items()]
            lines += [f"  {operation} kernels", units.table(rows, indent="    ")]
    return lines
