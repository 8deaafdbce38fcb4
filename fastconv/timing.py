"""Timing rivals fairly: they take turns within a round, so that all of them see the same noise.

On the CPU a sample is the mean of as many repetitions as make it long enough for the clock; caches are warm. On a GPU
a sample is one call between two CUDA events, after a write that is larger than the L2 cache; that write also keeps the
GPU busy while the host enqueues the call, so that the host's own time does not count unless it is longer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[], object]

#: name -> clock. "cpu" counts only the time that the calling thread ran: what one thread takes on a crowded machine
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


@dataclass(frozen=True)
class Samples:
    """One rival's times of a call in microseconds, one a round."""

    microseconds: tuple[float, ...]
    repetitions: int  # calls averaged in each

    @property
    def best(self) -> float:
        """The fastest round: what the code takes when nothing disturbs it."""
        return min(self.microseconds)

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.microseconds)


def measure(calls: Sequence[Call], device: str, rounds: int, budget: float = 2.0, clock: str = "wall") -> list[Samples]:
    """Time each of ``calls`` for ``rounds`` rounds; on the CPU for as many as fit in ``budget`` seconds, at least 5."""
    return _measure_cuda(calls, rounds) if device == "cuda" else _measure_cpu(calls, rounds, budget, CLOCKS[clock])


def _measure_cpu(
    calls: Sequence[Call], rounds: int, budget: float, clock: Callable[[], float], shortest: float = 4e-3
) -> list[Samples]:
    def seconds(call: Call, repetitions: int) -> float:
        start = clock()
        for _ in range(repetitions):
            call()
        return clock() - start

    repetitions = []
    for call in calls:
        call()  # plans are made, memory is mapped
        once = min(seconds(call, 1) for _ in range(2))
        repetitions.append(max(1, min(10_000, round(shortest / max(once, 1e-7)))))
    times: list[list[float]] = [[] for _ in calls]
    started = time.perf_counter()
    for turn in range(rounds):
        for which in _order(len(calls), turn):
            times[which].append(seconds(calls[which], repetitions[which]) / repetitions[which] * 1e6)
        if turn >= 4 and time.perf_counter() - started > budget:
            break
    return [Samples(tuple(each), count) for each, count in zip(times, repetitions, strict=True)]


def _measure_cuda(calls: Sequence[Call], rounds: int, warm_up: int = 3) -> list[Samples]:
    l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    flush = torch.empty(max(4 * l2, 512 << 20), dtype=torch.uint8, device="cuda")
    for call in calls:
        for _ in range(warm_up):  # cudnn.benchmark tries its algorithms in the first call
            call()
    events: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in calls]
    for turn in range(rounds):
        for which in _order(len(calls), turn):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            flush.zero_()
            start.record()
            calls[which]()
            end.record()
            events[which].append((start, end))
    torch.cuda.synchronize()
    return [Samples(tuple(start.elapsed_time(end) * 1e3 for start, end in each), 1) for each in events]


def _order(count: int, turn: int) -> range:
    """Who goes first changes from round to round."""
    return range(count) if turn % 2 else range(count - 1, -1, -1)
