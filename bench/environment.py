"""What a measurement was made on, so that two of them can be compared."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

import fastconv
from fastconv.machine import device_name

ROOT = Path(__file__).resolve().parents[1]


def describe(device: str) -> dict[str, Any]:
    """Device, versions, threads, commit, date: plain data for the report."""
    return {
        "device": device_name(device),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "versions": {
            "fastconv": fastconv.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        },
        "backend": fastconv.backends()["cuda" if device == "cuda" else "cpu"].details,
        "allow_tf32": torch.backends.cudnn.allow_tf32 if device == "cuda" else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "caches": "cold L2" if device == "cuda" else "warm",
    }


def commit() -> str:
    """The commit of the source tree, with "+" if it was changed since; empty outside of git."""
    try:
        head, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def slug(text: str) -> str:
    """``"NVIDIA H100 80GB HBM3"`` -> ``"nvidia-h100-80gb-hbm3"``: a name for a file."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
