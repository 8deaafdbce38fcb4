"""Numbers for people: SI prefixes, times, sizes."""

from __future__ import annotations


def si(value: float, unit: str) -> str:
    """``1.85e9, "FLOP"`` -> ``"1.85 GFLOP"``: three significant digits and a decimal prefix."""
    prefixes = ["", "k", "M", "G", "T", "P"]
    prefix = 0
    while abs(value) >= 999.5 and prefix < len(prefixes) - 1:
        value, prefix = value / 1000, prefix + 1
    return f"{significant(value)} {prefixes[prefix]}{unit}"


def microseconds(value: float) -> str:
    """A time given in microseconds, in the unit that reads best."""
    if value < 999.5:
        return f"{significant(value)} µs"
    return f"{significant(value / 1e3)} ms" if value < 999.5e3 else f"{significant(value / 1e6)} s"


def significant(value: float) -> str:
    """Three significant digits without an exponent; whole numbers below 1000 stay whole."""
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    magnitude = abs(value)
    return f"{value:.{2 if magnitude < 9.995 else 1 if magnitude < 99.95 else 0}f}"


def extents(values: list[int]) -> str:
    """``[3, 3]`` -> ``"3×3"``."""
    return "×".join(str(value) for value in values)


def table(rows: list[list[str]], indent: str = "  ", right: frozenset[int] = frozenset()) -> str:
    """Plain-text columns, two spaces apart; the columns in ``right`` are right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        sized = enumerate(zip(row, widths, strict=True))
        cells = [cell.rjust(width) if column in right else cell.ljust(width) for column, (cell, width) in sized]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
