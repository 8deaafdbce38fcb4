"""One pooling problem with its passes as functions of tensors, without autograd: the twin of convolution.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from . import backends, plans, settings
from .arguments import Ints, Rejected, dense, dense_strides, flag, integers, is_channels_last, is_dense
from .launch import max_launch, pool_launch


@dataclass(frozen=True)
class PoolArguments:
    """What the caller gave; ``stride`` None or empty means kernel_size."""

    kernel_size: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1
    ceil_mode: Any = False
    count_include_pad: Any = True
    divisor_override: Any = None

    @classmethod
    def of(cls, kind: str, arguments: tuple[Any, ...]) -> PoolArguments:
        """From the positional arguments of torch's function, which has no dilation if the kind is "average"."""
        return cls(*arguments) if kind == "max" else cls(*arguments[:3], 1, *arguments[3:])

    def for_torch(self, kind: str, rank: int) -> dict[str, Any]:
        """As keyword arguments of torch's function."""
        absent = ("count_include_pad", "divisor_override") if kind == "max" else ("dilation",)
        if rank == 1:
            absent = (*absent, "divisor_override")
        return {name: value for name, value in asdict(self).items() if name not in absent}


class Pooling:
    """A planned pooling of x [N, C, *spatial]; ``kind`` is "max" or "average".

    ``forward`` and ``forward_max`` trust x to have the strides the pooling was made for; ``fprop``, ``dgrad`` and
    ``gather`` take any. None records a gradient: autograd.py does.
    """

    operation = "pool"
    Arguments: Any = PoolArguments
    prefix = ""  # of the name of torch's function

    def __init__(self, x: Tensor, given: Any, rank: int, kind: str) -> None:
        """Validate and plan. Raises Rejected for bad arguments; RuntimeError if a forced kernel refuses."""
        self.rank, self.kind, self.given, self.settings = rank, kind, given, settings.current
        self.device, self.dtype, self.x_shape = x.device, x.dtype, tuple(x.shape)
        self._plans: dict[tuple[str, bool, bool], Any] = {}
        self._bound: dict[tuple[str, bool, bool], Callable[..., Tensor]] = {}
        if x.device.type not in backends.DEVICE_TYPES:
            self.module, self.refusal = None, f"no backend for {x.device.type} tensors"
            self.forward = self.torch  # which also judges the arguments
            self.plan("fprop")
            return
        if x.dim() != rank + 2:
            raise Rejected(f"input: expected {rank + 1} or {rank + 2} dimensions, got {list(x.shape)}")
        self._read(given)
        self.threads = plans.threads_for(x.device)
        self.channels_last = is_channels_last(x.shape, x.stride())
        self.module, self.refusal = self._choose_module(x)
        if self.module is not None:
            self._make_problem()
            self.is_dense = is_dense(x, self.x_strides)
        self.forward = self._bind_forward()

    def _read(self, given: Any) -> None:
        """The arguments as plain ints and bools. Raises Rejected."""
        rank = self.rank
        self.window = integers(given.kernel_size, rank, "kernel_size")
        empty = given.stride is None or (isinstance(given.stride, (tuple, list)) and not given.stride)
        self.stride = self.window if empty else integers(given.stride, rank, "stride")
        self.padding = integers(given.padding, rank, "padding")
        self.dilation = integers(given.dilation, rank, "dilation")
        self.ceil_mode = flag(given.ceil_mode, "ceil_mode")
        self.count_include_pad = flag(given.count_include_pad, "count_include_pad")
        override = given.divisor_override
        self.divisor_override = None if override is None else integers(override, 1, "divisor_override")[0]

    def _windows(self) -> dict[str, Any]:
        """What the module's PoolProblem is told of them."""
        return {
            "window": self.window,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "ceil_mode": self.ceil_mode,
            "count_include_pad": self.count_include_pad,
            "divisor_override": self.divisor_override,
        }

    def _choose_module(self, x: Tensor) -> tuple[Any, str]:
        """The compiled module, or None and the reason."""
        if x.dtype not in backends.DTYPES:
            return None, f"no kernel takes {x.dtype}"
        backend, reason = backends.select(x.device)
        if backend is None:
            return None, reason
        if x.numel() == 0:
            return None, "a tensor without elements needs no kernel"
        return backend.module, ""

    def _make_problem(self) -> None:
        try:
            self.problem = self.module.PoolProblem(
                kind=self.kind,
                n=self.x_shape[0],
                c=self.x_shape[1],
                input=self.x_shape[2:],
                **self._windows(),
                dtype=backends.DTYPES[self.dtype],
                layout="nhwc" if self.channels_last else "nchw",
            )
        except (RuntimeError, TypeError, OverflowError) as error:
            raise Rejected(str(error)) from None
        self.y_shape = (*self.x_shape[:2], *self.problem.output)
        self.x_strides, self.y_strides = (
            dense_strides(shape, self.channels_last) for shape in (self.x_shape, self.y_shape)
        )
        self.offset_dtype = torch.uint8 if self.problem.offset_bytes == 1 else torch.int32

    # ---- plans ----
    def plan(self, pass_: str, offsets: bool = False, indices: bool = False) -> Any:
        """The pass's plan, made when first asked for; max fprop may have to store offsets and indices too."""
        key = (pass_, offsets, indices)
        if key not in self._plans:
            self._plans[key] = self._make_plan(*key)
        return self._plans[key]

    def _make_plan(self, pass_: str, offsets: bool, indices: bool) -> Any:
        known = ("fprop", "dgrad", "gather") if self.kind == "max" else ("fprop", "dgrad")
        if pass_ not in known:
            raise ValueError(f"pass_: expected {' or '.join(known)} for {self.kind} pooling, got {pass_!r}")
        if self.module is None:
            operation = f"{self.prefix}{self.kind}_pool{self.rank}d {self.dtype} {list(self.x_shape)}"
            plan = plans.AtenPlan(operation, pass_, self.refusal)
            plans.note_aten(plan)
            return plan
        return plans.make_plan(
            self.module,
            self.operation,
            self.problem,
            pass_,
            self.settings,
            **self.plan_options(offsets, indices),
        )

    def plan_options(self, offsets: bool = False, indices: bool = False) -> dict[str, Any]:
        """What the module's plan depends on besides the problem, the pass and the settings."""
        where = {"threads": self.threads, "device": self.device.index or 0}
        return {**where, "offsets": offsets, "indices": indices}

    def _launch(self, pass_: str, offsets: bool = False, indices: bool = False) -> Callable[..., Tensor]:
        key = (pass_, offsets, indices)
        if key not in self._bound:
            self._bound[key] = self.launch_of(self.plan(*key), *key)
        return self._bound[key]

    def launch_of(self, plan: Any, pass_: str, offsets: bool = False, indices: bool = False) -> Callable[..., Tensor]:
        """``launch(src, offsets) -> dst`` on dense operands; for max fprop with offsets or indices, see max_launch."""
        shape, strides = (self.x_shape, self.x_strides) if pass_ == "dgrad" else (self.y_shape, self.y_strides)
        where = (plan, self.device, self.dtype, shape, strides)
        if not (offsets or indices):
            return pool_launch(*where)
        return max_launch(*where, (self.offset_dtype if offsets else None, torch.int64 if indices else None))

    def _bind_forward(self) -> Callable[[Tensor], Tensor]:
        if self.plan("fprop").is_aten:
            return self.torch
        launch, channels_last = self._launch("fprop"), self.channels_last
        return launch if self.is_dense else lambda x: launch(dense(x, channels_last))

    def torch(self, x: Tensor) -> Tensor:
        """PyTorch's own operator on the caller's own arguments; differentiable."""
        return self.torch_max(x, False) if self.kind == "max" else self._torch_function("avg_pool")(x)

    def torch_max(self, x: Tensor, indices: bool) -> Any:
        """PyTorch's own max-pooling, y or (y, indices); differentiable."""
        return self._torch_function("max_pool", return_indices=indices)(x)

    def _torch_function(self, name: str, **options: Any) -> Callable[..., Any]:
        function = getattr(torch_functional, f"{self.prefix}{name}{self.rank}d")
        return partial(function, **self.given.for_torch(self.kind, self.rank), **options)

    @cached_property
    def is_native(self) -> bool:
        """Whether our kernels run forward and backward. Max-pool's two share the offsets, so it is both or neither."""
        with_offsets = self.kind == "max"
        return not (self.plan("fprop", offsets=with_offsets).is_aten or self.plan("dgrad").is_aten)

    # ---- passes ----
    def forward_max(self, x: Tensor, offsets: bool, indices: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(y, offsets, indices) by our kernel, one or both of the latter two."""
        if not self.is_dense:
            x = dense(x, self.channels_last)
        return self._launch("fprop", offsets, indices)(x)

    # Operands of any strides; each pass is bound to its plan when first used.
    def _bind(self, pass_: str, strides: Ints, aten: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """``run(src, offsets)``: our kernel on operands made dense, or ``aten`` where the plan is PyTorch's."""
        if self.plan(pass_).is_aten:
            return aten
        launch, channels_last, y_strides = self._launch(pass_), self.channels_last, self.y_strides

        def run(src: Tensor, offsets: Tensor | None = None) -> Tensor:
            if not is_dense(src, strides):
                src = dense(src, channels_last)
            # What a saved-tensor hook gives back (torch.autograd.graph.save_on_cpu) need not have kept the strides.
            if offsets is not None and offsets.stride() != y_strides:
                offsets = dense(offsets, channels_last)
            return launch(src, offsets)

        return run

    @cached_property
    def fprop(self) -> Callable[[Tensor], Tensor]:
        """``fprop(x)`` -> y of average pooling."""
        return self._bind("fprop", self.x_strides, self.aten_average)

    @cached_property
    def dgrad(self) -> Callable[..., Tensor]:
        """``dgrad(gy)`` of average pooling, ``dgrad(gy, offsets)`` of max-pooling with its winning taps -> gx."""
        return self._bind(
            "dgrad", self.y_strides, self.aten_scatter if self.kind == "max" else self.aten_average_backward
        )

    @cached_property
    def gather(self) -> Callable[[Tensor, Tensor], Tensor]:
        """``gather(ggx, offsets)`` -> ggy [N, C, *output] of max-pooling: ggx at each window's winning tap."""
        return self._bind("gather", self.x_strides, self.aten_gather)

    # ---- the same passes by PyTorch; differentiable, and good under every transform ----
    def _average_arguments(self) -> tuple[Any, ...]:
        options = (self.window, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return options if self.rank == 1 else (*options, self.divisor_override)

    def aten_average(self, x: Tensor) -> Tensor:
        """y of average pooling by aten."""
        return getattr(torch_functional, f"avg_pool{self.rank}d")(x, *self._average_arguments())

    def aten_average_backward(self, gy: Tensor) -> Tensor:
        """gx of average pooling by aten, which wants x only for its shape."""
        x = gy.new_empty(1).expand(self.x_shape)
        options = (self.ceil_mode, self.count_include_pad, self.divisor_override)
        if self.rank > 1:
            backward = getattr(torch.ops.aten, f"avg_pool{self.rank}d_backward")
            return backward(gy, x, self.window, self.stride, self.padding, *options)
        # aten averages along one axis as along the second of two.
        window, stride, padding = ((1, *self.window), (1, *self.stride), (0, *self.padding))
        backward = torch.ops.aten.avg_pool2d_backward
        return backward(gy.unsqueeze(2), x.unsqueeze(2), window, stride, padding, *options).squeeze(2)

    def _origins(self, axis: int) -> Tensor:
        """Where the first tap of each window lies on this axis, if need be outside the input."""
        positions = torch.arange(self.y_shape[2 + axis], device=self.device)
        return positions * self.stride[axis] - self.padding[axis]

    def _winners(self, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """(flat index into x's plane of each window's winning tap, whether there is none), both [N, C, outputs]."""
        taps = offsets.to(torch.int64)
        found = (taps >= 0) & (taps != 255) if offsets.dtype == torch.uint8 else taps >= 0
        rest, index, step = taps, torch.zeros_like(taps), 1
        for axis in reversed(range(self.rank)):
            shape = [1] * (self.rank + 2)
            shape[2 + axis] = -1
            tap = rest % self.problem.window[axis] * self.problem.dilation[axis]
            index = index + (self._origins(axis).reshape(shape) + tap) * step
            rest = rest // self.problem.window[axis]
            step *= self.x_shape[2 + axis]
        return torch.where(found, index, 0).flatten(2), ~found.flatten(2)

    def aten_scatter(self, gy: Tensor, offsets: Tensor) -> Tensor:
        """Max-pool's gx by aten::scatter_add."""
        index, missing = self._winners(offsets)
        plane = torch.zeros((*self.x_shape[:2], math.prod(self.x_shape[2:])), dtype=self.dtype, device=self.device)
        values = gy.reshape(index.shape).masked_fill(missing, 0)
        return plane.scatter_add(2, index, values).reshape(self.x_shape)

    def aten_gather(self, ggx: Tensor, offsets: Tensor) -> Tensor:
        """Max-pool's ggy by aten::gather."""
        index, missing = self._winners(offsets)
        plane = ggx.reshape((*self.x_shape[:2], math.prod(self.x_shape[2:])))
        return plane.gather(2, index).masked_fill(missing, 0).reshape(self.y_shape)
