"""What a call costs before any arithmetic: fastconv beside torch.nn.functional on a tiny CPU tensor, in one run; and
what choosing a kernel for a new problem costs, which a known problem does not pay.

    python -m bench.overhead [--rounds 300] [--calls 50] [--kernel native]

The rivals take turns, some milliseconds at a time, so that both see the same noise; a row has the median and the
least over the rounds of the mean time of a call. Tiny tensors make the arithmetic negligible beside the call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as torch_functional

import fastconv

Call = Callable[[], object]


def rows() -> dict[str, tuple[Callable[[object], Call], bool]]:
    """Row name -> (functional module -> the call to time, whether gradients are recorded)."""
    x = torch.randn(1, 2, 6, 6)
    w, b = torch.randn(2, 2, 3, 3), torch.randn(2)
    leaf = x.clone().requires_grad_()
    w_leaf, b_leaf = torch.nn.Parameter(w.clone()), torch.nn.Parameter(b.clone())
    gy, gp = torch.ones(1, 2, 4, 4), torch.ones(1, 2, 3, 3)

    gt = torch.ones(1, 2, 8, 8)
    x1, w1 = (each[..., 0].contiguous() for each in (x, w))
    x3, w3 = x[..., None], w[..., :1, None].contiguous()

    def conv_step(f: object) -> Call:
        return lambda: torch.autograd.grad(f.conv2d(leaf, w_leaf, b_leaf), (leaf, w_leaf, b_leaf), gy)

    def transposed_step(f: object) -> Call:
        return lambda: torch.autograd.grad(f.conv_transpose2d(leaf, w_leaf, b_leaf), (leaf, w_leaf, b_leaf), gt)

    return {
        "conv2d, no grad": (lambda f: lambda: f.conv2d(x, w, b), False),
        "conv2d, grad recorded": (lambda f: lambda: f.conv2d(leaf, w_leaf, b_leaf), True),
        "conv2d, forward + backward": (conv_step, True),
        "conv1d, no grad": (lambda f: lambda: f.conv1d(x1, w1, b), False),
        "conv3d, no grad": (lambda f: lambda: f.conv3d(x3, w3, b), False),
        "conv_transpose2d, no grad": (lambda f: lambda: f.conv_transpose2d(x, w, b), False),
        "conv_transpose2d, grad recorded": (lambda f: lambda: f.conv_transpose2d(leaf, w_leaf, b_leaf), True),
        "conv_transpose2d, forward + backward": (transposed_step, True),
        "max_pool2d, no grad": (lambda f: lambda: f.max_pool2d(x, 2), False),
        "max_pool2d, grad recorded": (lambda f: lambda: f.max_pool2d(leaf, 2), True),
        "max_pool2d, forward + backward": (
            lambda f: lambda: torch.autograd.grad(f.max_pool2d(leaf, 2), leaf, gp),
            True,
        ),
        "avg_pool2d, no grad": (lambda f: lambda: f.avg_pool2d(x, 2), False),
        "avg_pool2d, grad recorded": (lambda f: lambda: f.avg_pool2d(leaf, 2), True),
        "avg_pool2d, forward + backward": (
            lambda f: lambda: torch.autograd.grad(f.avg_pool2d(leaf, 2), leaf, gp),
            True,
        ),
    }


def _microseconds(call: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls * 1e6


def measure(rounds: int = 300, calls: int = 50) -> list[tuple[str, list[float], list[float]]]:
    """(row, microseconds of fastconv, microseconds of torch), a value a round, for each row; the rivals interleaved."""
    measured = []
    for name, (make, grad) in rows().items():
        rivals = [make(fastconv.functional), make(torch_functional)]
        times: list[list[float]] = [[], []]
        with torch.set_grad_enabled(grad):
            for rival in rivals:
                _microseconds(rival, calls)
            for turn in range(rounds):
                for which in (0, 1) if turn % 2 else (1, 0):
                    times[which].append(_microseconds(rivals[which], calls))
        measured.append((name, *times))
    return measured


PASSES = ("fprop", "dgrad", "wgrad")


def choosing(problems: int = 200) -> list[tuple[str, float, float]]:
    """(backend and problem, median and most microseconds of a plan for a problem never seen before). The emulator's
    table is that of the GPU.
    """
    rows = []
    for backend in ("cpu", "emulator", "cuda"):
        module = fastconv.backends()[backend].module
        if module is None:
            continue
        for dtype, layout in (("float32", "nchw"), ("float16", "nhwc")):
            times = []
            for k in range(1, problems + 1):
                square = {"input": [56, 56], "filter": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}
                problem = module.ConvProblem(n=8, c=64, k=k, **square, dtype=dtype, layout=layout)
                times += [_microseconds(partial(module.conv_plan, problem, pass_), 1) for pass_ in PASSES]
            rows.append((f"{backend}, conv2d {dtype} {layout}", statistics.median(times), max(times)))
    return rows


def first_calls(problems: int = 200) -> list[float]:
    """Microseconds of conv2d's first call at each of many shapes: checks, plan, guards and a tiny convolution."""
    w = torch.randn(2, 2, 3, 3)
    inputs = [torch.randn(1, 2, 4, width) for width in range(4, 4 + problems)]
    with torch.no_grad():
        return [_microseconds(partial(fastconv.functional.conv2d, x, w), 1) for x in inputs]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--kernel", default=None, help="force a kernel, or 'native' for any but PyTorch's own")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with fastconv.use_kernel(options.kernel):
        x, w = torch.zeros(1, 2, 6, 6), torch.zeros(2, 2, 3, 3)
        chosen = [fastconv.plan("conv2d", x, w).kernel, fastconv.plan("max_pool2d", x, 2).kernel]
        print(f"torch {torch.__version__}, one thread, N1 C2 6x6; kernels: conv {chosen[0]}, pool {chosen[1]}\n")
        print(f"{'us a call':<32}{'fastconv':>10}{'torch':>10}{'ratio':>8}{'  least:':>10}{'':>10}{'ratio':>8}")
        for name, ours, theirs in measure(options.rounds, options.calls):
            columns = ""
            for value in (statistics.median, min):
                a, b = value(ours), value(theirs)
                columns += f"{a:>10.2f}{b:>10.2f}{a / b:>8.2f}"
            print(f"{name:<32}{columns}")
        first = first_calls()
        print(f"\n{'us for a new problem':<48}{'median':>10}{'most':>10}")
        for name, median, most in choosing():
            print(f"{'a choice: ' + name:<48}{median:>10.1f}{most:>10.1f}")
        print(f"{'conv2d at a new shape, all of it':<48}{statistics.median(first):>10.1f}{max(first):>10.1f}")


if __name__ == "__main__":
    main()
