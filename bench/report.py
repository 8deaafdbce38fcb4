"""Rows to files: results.json (everything), results.csv, results.md, and results.png by chart.py."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.suite import Row
from fastconv import units

SCHEMA = 1  # of results.json; raised when a field changes its meaning

#: (title, Row -> cell) of the Markdown table and of what is printed
COLUMNS = (
    ("layer", lambda row: row.layer),
    ("shape", lambda row: row.shape),
    ("pass", lambda row: row.pass_),
    ("layout", lambda row: row.layout),
    ("kernel", lambda row: row.kernel),
    ("fastconv", lambda row: _time(row.fastconv_us)),
    ("torch", lambda row: _time(row.torch_us)),
    ("ratio", lambda row: "" if row.ratio is None else f"{row.ratio:.2f}×"),
    ("GFLOP/s", lambda row: _number(row.gflops)),
    ("GB/s", lambda row: _number(row.gbytes)),
    ("of floor", lambda row: "" if row.of_floor is None else f"{row.of_floor:.0%}"),
    ("error", lambda row: _error(row.error)),
    ("torch's", lambda row: _error(row.torch_error)),
)
TEXT_COLUMNS = 5  # the first ones; the others are numbers


def _time(value: float | None) -> str:
    return "" if value is None else units.microseconds(value)


def _number(value: float | None) -> str:
    return "" if value is None else units.significant(value)


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


def write(rows: Sequence[Row], environment: dict[str, Any], out: Path, stem: str = "results") -> list[Path]:
    """Write the four files to ``out`` and return their paths. The chart needs matplotlib."""
    from bench import chart

    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{stem}.{kind}" for kind in ("json", "csv", "md", "png")]
    write_json(rows, environment, paths[0])
    with paths[1].open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0].as_dict()))
        writer.writeheader()
        writer.writerows(row.as_dict() for row in rows)
    paths[2].write_text(markdown(rows, environment))
    chart.draw(rows, environment, paths[3])
    return paths


def write_json(rows: Sequence[Row], environment: dict[str, Any], path: Path, **more: Any) -> None:
    """One JSON file: schema, environment, what else is given, rows."""
    document = {"schema": SCHEMA, "environment": environment, **more, "rows": [row.as_dict() for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def markdown(rows: Sequence[Row], environment: dict[str, Any]) -> str:
    """The report as Markdown: what it was measured on, the table, the means, the notes."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version)
    lines = [
        f"# fastconv beside torch on {environment['device']}",
        "",
        f"{environment['date']}, commit {environment['commit'][:12] or 'unknown'}, "
        f"CPU threads: {environment['threads']}, {rows[0].dtype}, {environment['caches']} caches; {versions}.",
        "",
        "`ratio` is torch's time over fastconv's: above 1 fastconv is faster. `error` is the largest error against "
        "float64 over the largest value.",
        "",
        "| " + " | ".join(title for title, _ in COLUMNS) + " |",
        "|" + "|".join([" --- "] * TEXT_COLUMNS + [" ---: "] * (len(COLUMNS) - TEXT_COLUMNS)) + "|",
    ]
    lines += ["| " + " | ".join(cell(row) for _, cell in COLUMNS) + " |" for row in rows if not row.note]
    lines += ["", *(f"- {line}" for line in summary(rows)), ""]
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> str:
    """The same table as plain text."""
    cells = [[title for title, _ in COLUMNS]] + [[cell(row) for _, cell in COLUMNS] for row in rows if not row.note]
    return units.table(cells, indent="", right=frozenset(range(TEXT_COLUMNS, len(COLUMNS))))


def summary(rows: Sequence[Row]) -> list[str]:
    """The geometric mean of the ratios by pass and layout, then what was not measured and why."""
    lines = []
    for pass_, layout in dict.fromkeys((row.pass_, row.layout) for row in rows):
        ratios = [row.ratio for row in rows if (row.pass_, row.layout) == (pass_, layout) and row.ratio]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            worst, best = min(ratios), max(ratios)
            lines.append(f"{pass_} {layout}: geometric mean {mean:.2f}×, from {worst:.2f}× to {best:.2f}×")
    lines += [f"{row.layer} {row.pass_} {row.layout}: not measured: {row.note}" for row in rows if row.note]
    return lines
