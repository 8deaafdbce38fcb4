"""``python -m bench gpu``: what ``make gpu`` runs once the extension is built, in some minutes and without a network.

Three steps: the tests that only a GPU can run (the conformance of every device primitive, and all of ``-m cuda``); the
quick suite beside cuDNN at equal layout in float32 and float16; and one JSON file, bench/results/<device>-<date>.json,
with both outcomes and what they were obtained on. Exit status 1 if a test failed or nothing could be measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastconv
from bench import environment, report, suite
from bench.layers import select

RESULTS = environment.ROOT / "bench" / "results"
#: what is timed: later suites (whole models, tensor-core dtypes, cuDNN's fusions) are further entries
MEASUREMENTS = (
    suite.Options(device="cuda", dtype="float32", rounds=30),
    suite.Options(device="cuda", dtype="float16", rounds=30),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Test, measure, write."""
    options = _parser().parse_args(arguments)
    cuda = fastconv.backends()["cuda"]
    if not cuda.available:
        print(f"bench.gpu: error: {cuda.reason}", file=sys.stderr)
        return 1
    tests = {"skipped": "--skip-tests"} if options.skip_tests else run_tests(options.test_seconds)
    rows = []
    for measurement in MEASUREMENTS:
        for row in suite.run(select("quick", options.layers), measurement):
            rows.append(row)
            print(f"{row.layer:26} {row.pass_:8} {row.layout} {row.dtype:8} ", end="")
            print(row.note or f"{row.ratio:6.2f}×  {row.kernel}", flush=True)
    facts = environment.describe("cuda")
    path = options.out / f"{environment.slug(facts['device'])}-{facts['date'][:10]}.json"
    report.write_json(rows, facts, path, tests=tests)
    for dtype in dict.fromkeys(row.dtype for row in rows):
        of_dtype = [row for row in rows if row.dtype == dtype]
        print(f"\n{dtype}\n{report.table(of_dtype)}\n", *report.summary(of_dtype), sep="\n")
    print(path)
    return 0 if tests.get("returncode", 0) == 0 and any(row.ratio for row in rows) else 1


def run_tests(limit: float) -> dict[str, Any]:
    """``pytest -m cuda`` in a process of its own, stopped after ``limit`` seconds; its counts and last lines."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "8"]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=environment.ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        print(f"tests: stopped after {limit:.0f} s")
        return {"returncode": 124, "seconds": limit, "tail": f"stopped after {limit:.0f} s"}
    tail = "\n".join(done.stdout.strip().splitlines()[-15:])
    print(tail, done.stderr.strip(), sep="\n")
    return {
        "returncode": done.returncode,
        "seconds": round(time.perf_counter() - started, 1),
        **{name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|skipped|errors?)", tail)},
        "tail": tail,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.gpu", description="The GPU's tests and a first timing beside cuDNN.")
    add = parser.add_argument
    add("--out", type=Path, default=RESULTS, metavar="DIR", help="default bench/results")
    add("--layers", default="", metavar="PARTS", help="only layers whose names contain one of these, comma-separated")
    add("--skip-tests", action="store_true")
    add("--test-seconds", type=float, default=240, help="stop the tests after this long (default 240)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
