"""Peak memory of whole layers is not above torch's: the resident set of a process that gives memory back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: KiB: what a thread keeps as scratch, small workspaces (wgrad's splits), and what the kernel's counters are off by.
ALLOWANCE = 1280


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize(
    ("suite", "layers"),
    [
        ("quick", "MobileNet depthwise 3×3/2,ResNeXt,max-pool 3×3"),
        pytest.param("quick", "", marks=pytest.mark.slow),
        pytest.param("pooling", "", marks=pytest.mark.slow),
    ],
)
def test_peak_memory_is_not_above_torchs(suite: str, layers: str) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    # Large blocks are mapped and unmapped one by one, so that no freed one hides what the next one takes.
    env = {**os.environ, "PYTHONPATH": paths, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TOP_PAD_": "0"}
    command = [sys.executable, str(ROOT / "tests/peak_memory.py"), suite, layers]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert rows and any(theirs > 8 * ALLOWANCE for _, _, theirs in rows)
    above = [f"{what}: {ours} KiB beside torch's {theirs}" for what, ours, theirs in rows if ours > theirs + ALLOWANCE]
    assert not above, above
