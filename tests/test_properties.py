"""The mathematics of the field, as properties over random problems; and bits: the same from run to run, and for a
sample whatever batch it comes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import Target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import functional as FC
from fastconv.testing import integer_tensor, random_tensor

Tensor = torch.Tensor
EXACT = torch.float64  # small integers in float64: every equality below is exact
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
# The backend fixture is only a setting: examples may share it.
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@dataclass(frozen=True)
class Problem:
    """A random convolution whose output is not empty."""

    n: int
    c: int
    k: int
    size: tuple[int, int]
    filter: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    channels_last: bool

    def tensors(self, device: torch.device, dtype: torch.dtype = EXACT, seed: int = 1) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {"channels_last": self.channels_last, "device": device}
        x = integer_tensor((self.n, self.c, *self.size), dtype, seed=seed, **options)
        return x, integer_tensor((self.k, self.c // self.groups, *self.filter), dtype, seed=seed + 1, **options)

    def conv(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        return FC.conv2d(x, w, bias, self.stride, self.padding, self.dilation, self.groups)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    window, dilation, padding = draw(pairs(1, 3)), draw(pairs(1, 2)), draw(pairs(0, 2))
    reach = [d * (f - 1) + 1 for d, f in zip(dilation, window, strict=True)]
    least = [max(1, r - 2 * p) for r, p in zip(reach, padding, strict=True)]
    size = draw(st.tuples(*(st.integers(low, low + 5) for low in least)))
    return Problem(
        n=draw(st.integers(1, 3)),
        c=groups * draw(st.integers(1, 3)),
        k=groups * draw(st.integers(1, 3)),
        size=size,
        filter=window,
        stride=draw(pairs(1, 3)),
        padding=padding,
        dilation=dilation,
        groups=groups,
        channels_last=draw(st.booleans()),
    )


@relaxed
@given(problem=problems())
def test_linear_in_each_operand(native: Target, problem: Problem) -> None:
    (x1, w1), (x2, w2) = (problem.tensors(native.device, seed=seed) for seed in (1, 3))
    assert torch.equal(problem.conv(2 * x1 - 3 * x2, w1), 2 * problem.conv(x1, w1) - 3 * problem.conv(x2, w1))
    assert torch.equal(problem.conv(x1, 2 * w1 - 3 * w2), 2 * problem.conv(x1, w1) - 3 * problem.conv(x1, w2))


@relaxed
@given(problem=problems())
def test_bias_adds(native: Target, problem: Problem) -> None:
    x, w = problem.tensors(native.device)
    bias = integer_tensor((problem.k,), EXACT, seed=5, device=native.device)
    assert torch.equal(problem.conv(x, w, bias), problem.conv(x, w) + bias[:, None, None])


@relaxed
@given(problem=problems())
def test_adjoint(native: Target, problem: Problem) -> None:
    """<conv(x, w), g> = <x, dgrad(g, w)> = <w, wgrad(x, g)>."""
    x, w = (tensor.requires_grad_() for tensor in problem.tensors(native.device))
    y = problem.conv(x, w)
    g = integer_tensor(tuple(y.shape), EXACT, seed=5, device=native.device)
    gx, gw = torch.autograd.grad(y, (x, w), g)
    products = [float((a.detach() * b).sum()) for a, b in ((y, g), (x, gx), (w, gw))]
    assert products[0] == products[1] == products[2]


@relaxed
@given(problem=problems(), shift=pairs(0, 2))
def test_translation_equivariance(native: Target, problem: Problem, shift: tuple[int, int]) -> None:
    """Moving the input by the stride moves the output by one; all of the input is kept by wide zero borders."""
    border = [shift[a] * problem.stride[a] + problem.dilation[a] * problem.filter[a] for a in (0, 1)]
    border = [-(-b // s) * s for b, s in zip(border, problem.stride, strict=True)]
    x, w = problem.tensors(native.device)
    padded = torch.nn.functional.pad(x, (border[1], border[1], border[0], border[0]))
    steps = (shift[0] * problem.stride[0], shift[1] * problem.stride[1])
    moved = problem.conv(padded.roll(steps, (2, 3)), w)
    assert torch.equal(moved[..., shift[0] :, shift[1] :], problem.conv(padded, w).roll(shift, (2, 3))[
        ..., shift[0] :, shift[1] :
    ])  # fmt: skip


@relaxed
@given(problem=problems())
def test_dgrad_is_the_convolution_with_the_flipped_filter(native: Target, problem: Problem) -> None:
    """At stride 1: dgrad(g, w) = conv(g, w transposed and flipped), padded by what the filter reaches beyond."""
    p = Problem(**{**problem.__dict__, "stride": (1, 1), "groups": 1, "c": 2, "k": 3})
    reach = [d * (f - 1) for d, f in zip(p.dilation, p.filter, strict=True)]
    padding = tuple(min(a, r) for a, r in zip(p.padding, reach, strict=True))
    p = Problem(**{**p.__dict__, "padding": padding})
    x, w = p.tensors(native.device)
    x.requires_grad_()
    y = p.conv(x, w)
    g = integer_tensor(tuple(y.shape), EXACT, seed=5, device=native.device)
    (gx,) = torch.autograd.grad(y, x, g)
    full = [r - a for r, a in zip(reach, padding, strict=True)]
    assert torch.equal(gx, FC.conv2d(g, w.transpose(0, 1).flip(2, 3), None, 1, full, p.dilation))


@relaxed
@given(problem=problems())
def test_groups_are_separate_convolutions(native: Target, problem: Problem) -> None:
    x, w = problem.tensors(native.device)
    whole = problem.conv(x, w)
    parts = [
        FC.conv2d(xg, wg, None, problem.stride, problem.padding, problem.dilation)
        for xg, wg in zip(x.chunk(problem.groups, 1), w.chunk(problem.groups, 0), strict=True)
    ]
    assert torch.equal(whole, torch.cat(parts, 1))


@relaxed
@given(problem=problems())
def test_one_by_one_is_a_matrix_product(native: Target, problem: Problem) -> None:
    x, _ = problem.tensors(native.device)
    w = integer_tensor((problem.k, problem.c, 1, 1), EXACT, seed=2, device=native.device)
    assert torch.equal(FC.conv2d(x, w), torch.einsum("nchw,kc->nkhw", x, w[..., 0, 0]))


# ---- pooling ----
windows = st.tuples(st.integers(1, 4), st.integers(1, 4))


@relaxed
@given(window=windows, constant=st.integers(-5, 5), seed=st.integers(0, 9), channels_last=st.booleans())
def test_pooling_commutes_with_adding_a_constant(
    native: Target, window: tuple[int, int], constant: int, seed: int, channels_last: bool
) -> None:
    x = integer_tensor((2, 3, 8, 9), EXACT, seed=seed, channels_last=channels_last, device=native.device)
    assert torch.equal(FC.max_pool2d(x + constant, window), FC.max_pool2d(x, window) + constant)
    moved = FC.avg_pool2d(x + constant, window)
    torch.testing.assert_close(moved, FC.avg_pool2d(x, window) + constant, rtol=1e-14, atol=1e-14)


@relaxed
@given(window=windows, seed=st.integers(0, 9), channels_last=st.booleans())
def test_max_pooling_takes_the_larger_of_two(
    native: Target, window: tuple[int, int], seed: int, channels_last: bool
) -> None:
    options: dict[str, Any] = {"channels_last": channels_last, "device": native.device}
    a, b = (integer_tensor((2, 3, 8, 9), EXACT, seed=s, **options) for s in (seed, seed + 1))
    both = torch.maximum(FC.max_pool2d(a, window, 1), FC.max_pool2d(b, window, 1))
    assert torch.equal(FC.max_pool2d(torch.maximum(a, b), window, 1), both)


@relaxed
@given(window=windows, shift=pairs(0, 3), seed=st.integers(0, 9))
def test_pooling_moves_with_its_input(
    native: Target, window: tuple[int, int], shift: tuple[int, int], seed: int
) -> None:
    x = integer_tensor((1, 2, 12, 12), EXACT, seed=seed, device=native.device)
    for pool in (FC.max_pool2d, FC.avg_pool2d):
        moved = pool(x[..., shift[0] :, shift[1] :], window, 1)
        assert torch.equal(moved, pool(x, window, 1)[..., shift[0] :, shift[1] :])


@relaxed
@given(window=windows, seed=st.integers(0, 9), channels_last=st.booleans())
def test_pooling_gradients_conserve(native: Target, window: tuple[int, int], seed: int, channels_last: bool) -> None:
    """Without padding each gradient goes somewhere: the sums agree; max-pool's lands where the maximum was."""
    x = integer_tensor((2, 2, 8, 8), EXACT, seed=seed, channels_last=channels_last, device=native.device)
    x.requires_grad_()
    for pool in (FC.max_pool2d, FC.avg_pool2d):
        y = pool(x, window)
        g = integer_tensor(tuple(y.shape), EXACT, seed=seed + 1, device=native.device)
        (gx,) = torch.autograd.grad(y, x, g)
        torch.testing.assert_close(gx.sum(), g.sum(), rtol=1e-12, atol=1e-12)
    y, indices = FC.max_pool2d(x, window, return_indices=True)
    assert torch.equal(x.flatten(2).gather(2, indices.flatten(2)).reshape(y.shape), y)


# ---- bits ----
OPERATIONS = {
    "dense": lambda x, w, d: FC.conv2d(x, w, None, padding=1),
    "depthwise": lambda x, w, d: FC.conv2d(x, d, None, padding=1, groups=6),
    "transposed": lambda x, w, d: FC.conv_transpose2d(x, w.transpose(0, 1), None, 2, 1),
    "three axes": lambda x, w, d: FC.conv3d(x[:, :, None], w[:, :, None], None, padding=(0, 1, 1)),
    "max_pool": lambda x, w, d: FC.max_pool2d(x, 3, 2),
    "avg_pool": lambda x, w, d: FC.avg_pool2d(x, 2, 1),
}


def run_operation(name: str, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """The result and its gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = OPERATIONS[name](*leaves)
    gradients = torch.autograd.grad(y.square().sum(), leaves, allow_unused=True)
    return [y, *(gradient for gradient in gradients if gradient is not None)]


def kernel_names() -> list[str]:
    tables = [backend.kernels(each) for backend in fastconv.backends().values() for each in ("conv", "pool")]
    return sorted({name for table in tables for name, _ in table} - {"aten"})


@pytest.mark.parametrize("kernel", kernel_names())
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_kernels_bits_are_the_same_every_time_and_for_any_thread_count(
    native: Target, kernel: str, channels_last: bool
) -> None:
    size, dtype = 7 if native.name == "emulator" else 33, torch.float32
    options: dict[str, Any] = {"channels_last": channels_last, "device": native.device}
    tensors = (
        random_tensor((5, 6, size, size), dtype, seed=1, **options),
        random_tensor((8, 6, 3, 3), dtype, seed=2, **options),
        random_tensor((6, 1, 3, 3), dtype, seed=3, **options),
    )
    backend = fastconv.backends()[native.name]
    for name in OPERATIONS:
        if kernel not in dict(backend.kernels("pool" if "pool" in name else "conv")):
            continue
        with fastconv.use_kernel(kernel):
            try:
                first = run_operation(name, tensors)
            except RuntimeError as refusal:
                assert "no kernel accepts" in str(refusal)  # not this kernel's kind of problem
                continue
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                try:
                    again = run_operation(name, tensors)
                finally:
                    torch.set_num_threads(1)
                assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), (name, threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("groups", [1, 6])
def test_a_samples_result_does_not_depend_on_its_batch(
    native: Target, dtype: torch.dtype, channels_last: bool, groups: int
) -> None:
    options: dict[str, Any] = {"channels_last": channels_last, "device": native.device}
    x = random_tensor((7, 6, 9, 8), dtype, seed=1, **options)
    w = random_tensor((6, 6 // groups, 3, 3), dtype, seed=2, **options)

    def per_sample(x: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        y = FC.avg_pool2d(FC.max_pool2d(FC.conv2d(x, w, padding=1, groups=groups), 2), 2, 1)
        return [y, torch.autograd.grad(y.sum(), x)[0]]

    whole = per_sample(x)
    for part in (slice(0, 1), slice(3, 5), slice(6, 7)):
        alone = per_sample(
            x[part].contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        )
        assert all(torch.equal(a[part], b) for a, b in zip(whole, alone, strict=True))
