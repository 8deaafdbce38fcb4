"""Runs plans of the GPU kernels' modules on torch tensors: their tests go through no other layer of fastconv.

One driver for ``_emulator`` (host memory) and, where there is a GPU, ``_cuda``: the same tables, the same tests.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import oracle
import pytest
import torch
import torch.nn.functional as F
from shapes import ConvCase, PoolCase
from torch import Tensor

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
LAYOUTS = ("nchw", "nhwc")
CONV_PASSES = ("fprop", "dgrad", "wgrad", "bgrad")


def dense(tensor: Tensor, layout: str, offset: int = 0) -> Tensor:
    """The tensor's values, stored in the layout's order after ``offset`` elements; shape as before."""
    order = tensor.movedim(1, -1) if layout == "nhwc" else tensor
    storage = torch.empty(offset + order.numel(), dtype=tensor.dtype, device=tensor.device)
    stored = storage[offset:].view(order.shape).copy_(order)
    return stored.movedim(-1, 1) if layout == "nhwc" else stored


@dataclass(frozen=True)
class ConvOperands:
    """The tensors of a convolution, in host memory."""

    x: Tensor
    w: Tensor
    bias: Tensor
    gy: Tensor

    def double(self) -> ConvOperands:
        """The same values in float64, for the oracle."""
        return ConvOperands(self.x.double(), self.w.double(), self.bias.double(), self.gy.double())


def conv_operands(case: ConvCase, dtype: str, integers: bool = False, seed: int = 0) -> ConvOperands:
    """Tensors of a case. ``integers``: small ones, whose sums of products every dtype represents exactly."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (
        (case.n, case.c, *case.input),
        (case.k, case.c // case.groups, *case.filter),
        (case.k,),
        (case.n, case.k, *case.output),
    )
    if integers:
        return ConvOperands(*(torch.randint(-2, 3, s, generator=generator).to(DTYPES[dtype]) for s in shapes))
    values = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return ConvOperands(*(v.to(DTYPES[dtype]) for v in values))


def conv_oracle(case: ConvCase, pass_: str, operands: ConvOperands, mode: str = "zeros") -> Tensor:
    """A pass by torch, in the operands' dtype; fprop with the bias. torch pads, by ``mode``, and its autograd folds."""
    rank = len(case.input)
    if pass_ == "bgrad":
        return operands.gy.sum(dim=[0, *range(2, 2 + rank)])
    pairs = list(zip(case.padding_low, case.padding_high, strict=True))
    x, w = operands.x.detach().requires_grad_(), operands.w.detach().requires_grad_()
    conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    padded = F.pad(x, [p for pair in reversed(pairs) for p in pair], "constant" if mode == "zeros" else mode)
    y = conv(padded, w, operands.bias, case.stride, 0, case.dilation, case.groups)
    if pass_ == "fprop":
        return y.detach()
    (gradient,) = torch.autograd.grad(y, x if pass_ == "dgrad" else w, operands.gy)
    return gradient


def conv_exactly(case: ConvCase, operands: ConvOperands) -> dict[str, Tensor]:
    """Every pass by its definition, in more than float64."""
    return {
        "fprop": oracle.fprop(case, operands.x, operands.w, operands.bias),
        "dgrad": oracle.dgrad(case, operands.gy, operands.w),
        "wgrad": oracle.wgrad(case, operands.x, operands.gy),
        "bgrad": oracle.bgrad(operands.gy),
    }


def pool_oracle(case: PoolCase, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """torch's pooling: output, and plane indices for max. Where torch lacks the dtype (3-D averages), via float32."""
    rank = len(case.input)
    if case.adaptive:
        name = f"adaptive_{'max' if case.kind == 'max' else 'avg'}_pool{rank}d"
        result = getattr(F, name)(x, case.adaptive, **({"return_indices": True} if case.kind == "max" else {}))
        return result if case.kind == "max" else (result, None)
    if case.kind == "max":
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
        return pool(x, case.window, case.stride, case.padding, case.dilation, case.ceil_mode, return_indices=True)
    average = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    options = () if rank == 1 else (case.divisor_override,)
    wide = x.float() if rank == 3 and x.dtype in (torch.float16, torch.bfloat16) else x
    y = average(wide, case.window, case.stride, case.padding, case.ceil_mode, case.count_include_pad, *options)
    return y.to(x.dtype), None


@dataclass(frozen=True)
class PoolResult:
    """What max fprop writes; offsets and indices are None for averages."""

    y: Tensor
    offsets: Tensor | None
    indices: Tensor | None


@dataclass(frozen=True)
class Driver:
    """A module of GPU kernels and where its tensors live."""

    module: ModuleType
    device: str

    def kernels(self, case: ConvCase, pass_: str, dtype: str, layout: str, **options: object) -> list[str]:
        """The kernels that accept a pass of the case, all but PyTorch's; ``options``: math, residual, activation."""
        problem = self.module.ConvProblem(**case.arguments(dtype, layout))
        found = self.module.conv_plan(problem, pass_, **options).candidates
        return [each.kernel for each in found if each.accepted and each.kernel != "aten"]

    def put(self, tensor: Tensor, layout: str, offset: int = 0) -> Tensor:
        """A copy on the device, dense in the layout, misaligned by ``offset`` elements."""
        return dense(tensor.to(self.device), layout, offset)

    def blank(self, shape: tuple[int, ...], dtype: torch.dtype, layout: str, offset: int = 0) -> Tensor:
        """Memory for a result, filled with what no result is: NaN, or 77."""
        fill = float("nan") if dtype.is_floating_point else 77
        return self.put(torch.full(shape, fill, dtype=dtype), layout, offset)

    def conv_plan(self, case: ConvCase, pass_: str, dtype: str, layout: str, kernel: str = "", **options: object):
        """A plan for the case; never PyTorch's operator."""
        problem = self.module.ConvProblem(**case.arguments(dtype, layout))
        plan = self.module.conv_plan(problem, pass_, kernel=kernel, **options)
        assert not plan.is_aten, plan.explain()
        return plan

    def conv(
        self,
        case: ConvCase,
        pass_: str,
        operands: ConvOperands,
        layout: str,
        kernel: str = "",
        offset: int = 0,
        workspace_limit: int = -1,
        math: str = "ieee",
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        **epilogue: object,
    ) -> Tensor:
        """One pass of the case, back in host memory; fprop with the operands' bias, dgrad with ``bias``. ``epilogue``:
        activation and slope.
        """
        dtype = next(name for name, each in DTYPES.items() if each == operands.x.dtype)
        added = operands.bias if pass_ == "fprop" else bias
        options = {"workspace_limit": workspace_limit, "bias": added is not None, "math": math}
        options |= {"residual": residual is not None, **epilogue}
        plan = self.conv_plan(case, pass_, dtype, layout, kernel, **options)
        x, w, gy = (self.put(t, layout, offset) for t in (operands.x, operands.w, operands.gy))
        added = None if added is None else added.to(self.device)
        residual = None if residual is None else self.put(residual, layout, offset)
        a, b, shape = {
            "fprop": (x, w, gy.shape),
            "dgrad": (gy, w, x.shape),
            "wgrad": (x, gy, w.shape),
            "bgrad": (gy, None, operands.bias.shape),
        }[pass_]
        blank = torch.full_like(operands.bias, float("nan")).to(self.device) if pass_ == "bgrad" else None
        out = self.blank(tuple(shape), DTYPES[dtype], layout, offset) if blank is None else blank
        # float32 NaN throughout: a slice that nobody wrote shows.
        workspace = torch.full((plan.workspace_bytes // 4 + 1,), float("nan"), device=self.device)
        plan.run(
            a.data_ptr(),
            0 if b is None else b.data_ptr(),
            0 if added is None else added.data_ptr(),
            0 if residual is None else residual.data_ptr(),
            out.data_ptr(),
            workspace.data_ptr() if plan.workspace_bytes else 0,
            0,
        )
        return out.cpu()

    def pool_plan(self, case: PoolCase, pass_: str, dtype: str, layout: str, kernel: str = ""):
        """A plan for the case; never PyTorch's operator. Max fprop with offsets and indices."""
        problem = self.module.PoolProblem(**case.arguments(dtype, layout))
        extras = case.kind == "max" and pass_ == "fprop"
        plan = self.module.pool_plan(problem, pass_, kernel=kernel, offsets=extras, indices=extras)
        assert not plan.is_aten, plan.explain()
        return plan

    def pool_kernels(self, case: PoolCase, pass_: str, dtype: str, layout: str) -> list[str]:
        """The kernels that accept a pass of the case, all but PyTorch's."""
        extras = case.kind == "max" and pass_ == "fprop"
        problem = self.module.PoolProblem(**case.arguments(dtype, layout))
        found = self.module.pool_plan(problem, pass_, offsets=extras, indices=extras).candidates
        return [each.kernel for each in found if each.accepted and each.kernel != "aten"]

    def pool(self, case: PoolCase, x: Tensor, layout: str, kernel: str = "", offset: int = 0) -> PoolResult:
        """fprop; for max with the winning taps and plane indices, all on the device."""
        dtype = next(name for name, each in DTYPES.items() if each == x.dtype)
        plan = self.pool_plan(case, "fprop", dtype, layout, kernel)
        shape = (case.n, case.c, *plan.problem.output)
        source, y = self.put(x, layout, offset), self.blank(shape, x.dtype, layout, offset)
        if case.kind != "max":
            plan.run(source.data_ptr(), y.data_ptr(), 0, 0, 0, 0)
            return PoolResult(y, None, None)
        taps = torch.uint8 if plan.problem.offset_bytes == 1 else torch.int32
        offsets, indices = self.blank(shape, taps, layout, offset), self.blank(shape, torch.int64, layout, offset)
        plan.run(source.data_ptr(), y.data_ptr(), offsets.data_ptr(), indices.data_ptr(), 0, 0)
        return PoolResult(y, offsets, indices)

    def pool_from(
        self,
        case: PoolCase,
        pass_: str,
        source: Tensor,
        offsets: Tensor | None,
        layout: str,
        offset: int = 0,
        kernel: str = "",
    ) -> Tensor:
        """dgrad (source gy) or gather (source ggx), back in host memory; offsets as fprop gave them."""
        dtype = next(name for name, each in DTYPES.items() if each == source.dtype)
        plan = self.pool_plan(case, pass_, dtype, layout, kernel)
        spatial = case.input if pass_ == "dgrad" else plan.problem.output
        out = self.blank((case.n, case.c, *spatial), source.dtype, layout, offset)
        placed = self.put(source, layout, offset)
        plan.run(placed.data_ptr(), out.data_ptr(), 0 if offsets is None else offsets.data_ptr(), 0, 0, 0)
        return out.cpu()


def blocks_of_a_sample(plan: object, case: ConvCase, layout: str) -> int:
    """The first blocks of a grid, that compute all of the first sample."""
    grid, planes = int(found(plan, r"grid (\d+)")), int(found(plan, r"of (\d+) (?:samples|planes)"))
    outer = case.n if layout == "nhwc" else case.n * case.c
    rounds = 1 if layout == "nhwc" else -(-case.c // planes)
    return grid // -(-outer // planes) * rounds


def found(plan: object, pattern: str) -> str:
    match = re.search(pattern, plan.detail)  # type: ignore[attr-defined]
    assert match, plan.detail  # type: ignore[attr-defined]
    return match[1]


# Threads and blocks in any order, copies as late as they may come, memory full of what nobody wrote; nobody races.
SCHEDULES = (
    {"schedule": "forward", "race_check": True},
    {"schedule": "reverse", "race_check": True},
    {"schedule": "random", "seed": 1, "race_check": True},
    {"schedule": "random", "seed": 2, "poison": "garbage"},
)


@pytest.fixture(params=SCHEDULES, ids=lambda settings: " ".join(str(v) for v in settings.values()))
def schedule(request: pytest.FixtureRequest, driver: Driver) -> Iterator[None]:
    """Each of SCHEDULES in turn, in the emulator."""
    if driver.device != "cpu":
        pytest.skip("cuda: the hardware chooses the schedule")
    before = driver.module.configure(**request.param)
    yield
    driver.module.configure(**before)


@pytest.fixture(name="driver", params=["emulator", pytest.param("cuda", marks=pytest.mark.cuda)])
def gpu_driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """``_emulator``, or ``_cuda`` where it finds a GPU."""
    try:
        module = importlib.import_module(f"fastconv._{request.param}")
    except ImportError as error:
        pytest.skip(f"{request.param}: not built ({error})")
    info = module.info()
    if not info["available"]:
        pytest.skip(f"{request.param}: {info['reason']}")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("cuda: this PyTorch is built without CUDA")
    if request.param == "cuda":
        yield Driver(module, "cuda")
        return
    before = module.configure(count=False)  # nobody looks: quicker
    yield Driver(module, "cpu")
    module.configure(**before)
