"""One convolution problem with its passes as functions of tensors, without autograd.

A :class:`Convolution` is made once for a combination of shapes, strides, dtype, device, arguments and settings, and
kept (functional.py); it validates, plans each pass when it is first needed, and binds each plan to a function. Nothing
here is specific to two dimensions: ``rank`` is the number of spatial axes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from . import backends, plans, settings
from .arguments import Ints, Rejected, conv_padding, dense, dense_strides, integers, is_channels_last, is_dense
from .launch import conv_launch
from .precision import math_of

_LETTERS = {1: "L", 2: "H, W", 3: "D, H, W"}


class ConvArguments(NamedTuple):
    """What the caller of conv gave, in torch's order."""

    stride: Any
    padding: Any
    dilation: Any
    groups: Any


def check_tensors(x: Tensor, w: Tensor, bias: Tensor | None, rank: int) -> None:
    """What torch demands of the tensors before any size is computed. Raises Rejected, naming the argument."""
    if x.dim() not in (rank + 1, rank + 2):
        raise Rejected(f"input: expected [N, C, {_LETTERS[rank]}] or [C, {_LETTERS[rank]}], got {list(x.shape)}")
    if w.dim() != rank + 2:
        raise Rejected(f"weight: expected {rank + 2} dimensions, got {list(w.shape)}")
    for name, tensor in (("weight", w), ("bias", bias)):
        if tensor is not None and tensor.dtype != x.dtype:
            raise Rejected(f"{name}: expected {x.dtype}, the dtype of input, got {tensor.dtype}")
        if tensor is not None and tensor.device != x.device:
            # Certain: torch's CPU operator reads through the null pointer of a meta weight.
            raise Rejected(f"{name}: expected it on {x.device}, where input is, got {tensor.device}", RuntimeError)
    if 0 in w.shape[2:]:
        raise Rejected(f"weight: expected a positive kernel size, got {list(w.shape[2:])}")


def check_bias(bias: Tensor | None, channels: int) -> None:
    """A bias has one element for each of the result's channels. Raises Rejected."""
    if bias is not None and tuple(bias.shape) != (channels,):
        raise Rejected(f"bias: expected shape [{channels}], one for each output channel, got {list(bias.shape)}")


class Convolution:
    """A planned convolution of x [N, C, *spatial] with w [K, C/groups, *filter].

    ``forward(x, w, bias)`` trusts the operands to have the strides it was made for; the passes ``fprop``, ``dgrad``,
    ``wgrad`` and ``bgrad`` take any strides, and no bias. None of them records a gradient: autograd.py does.
    """

    operation = "conv"
    #: torch's functions of this kind are named so, with the rank and "d" behind; what their arguments are called
    kind, arguments = "conv", ConvArguments
    #: What padding holds: "zeros", or a mode of padded.py.
    padding_mode = "zeros"
    #: The pass that the call itself is. (A transposed convolution's is another: transposed.py.)
    forward_pass = "fprop"

    def __init__(self, x: Tensor, w: Tensor, bias: Tensor | None, given: tuple[Any, ...], rank: int) -> None:
        """Validate and plan ``given``, the arguments in torch's order. Raises Rejected for bad ones; RuntimeError if a
        forced kernel refuses.
        """
        self.rank, self.given, self.settings = rank, self.arguments(*given), settings.current
        self.name = f"{self.kind}{rank}d"
        self.device, self.dtype, self.input_shape = x.device, x.dtype, tuple(x.shape)
        self.math = math_of(self.settings, x.device) if x.dtype is torch.float32 else "ieee"
        self._plans: dict[tuple[str, bool], Any] = {}
        self.epilogues: dict[Any, Any] = {}  # fused.py keeps what it makes of this convolution here
        if x.device.type not in backends.DEVICE_TYPES:
            self.module, self.refusal = None, f"no backend for {x.device.type} tensors"
            self.forward = self.torch  # which also judges the arguments
            self.plan("fprop")
            return
        self.groups = integers(self.given.groups, 1, "groups")[0]
        check_tensors(x, w, bias, rank)
        self.stride = integers(self.given.stride, rank, "stride")
        self.dilation = integers(self.given.dilation, rank, "dilation")
        self.w_shape = tuple(w.shape)
        self.low, high = self._read(bias)
        self.extra = tuple(h - lo for h, lo in zip(high, self.low, strict=True))
        self.threads = plans.threads_for(x.device)
        self.channels_last = is_channels_last(x.shape, x.stride()) or is_channels_last(w.shape, w.stride())
        self.module, self.refusal = self._choose_module(x, w)
        if self.module is not None:
            self._make_problem(high)
        self.forward = self._bind_forward(x, w, bias)

    @classmethod
    def torchs(cls, rank: int) -> Callable[..., Tensor]:
        """PyTorch's function of the call."""
        return getattr(torch_functional, f"{cls.kind}{rank}d")

    def _read(self, bias: Tensor | None) -> tuple[Ints, Ints]:
        """Check the sizes and set ``x_shape``; the padding below and above. Raises Rejected."""
        check_bias(bias, self.w_shape[0])
        channels = self.input_shape[-self.rank - 1]
        if self.groups > 0 and channels != self.w_shape[1] * self.groups:
            raise Rejected(
                f"input: expected {self.w_shape[1] * self.groups} channels (weight.shape[1] = {self.w_shape[1]} times "
                f"groups = {self.groups}), got {channels}"
            )
        self.x_shape = self.input_shape
        return conv_padding(self.given.padding, self.rank, self.w_shape[2:], self.stride, self.dilation)

    def _choose_module(self, x: Tensor, w: Tensor) -> tuple[Any, str]:
        """The compiled module, or None and the reason."""
        if x.dtype not in backends.DTYPES:
            return None, f"no kernel takes {x.dtype}"
        backend, reason = backends.select(x.device)
        if backend is None:
            return None, reason
        if x.numel() == 0 or w.numel() == 0:
            return None, "a tensor without elements needs no kernel"
        return backend.module, ""

    def _make_problem(self, high: Ints) -> None:
        try:
            self.problem = self.module.ConvProblem(
                n=self.x_shape[0],
                c=self.x_shape[1],
                k=self.w_shape[0],
                input=self.x_shape[2:],
                filter=self.w_shape[2:],
                stride=self.stride,
                padding=self.low,
                padding_high=high,
                dilation=self.dilation,
                groups=self.groups,
                dtype=backends.DTYPES[self.dtype],
                layout="nhwc" if self.channels_last else "nchw",
                padding_mode=self.padding_mode,
            )
        except (RuntimeError, TypeError, OverflowError) as error:
            raise Rejected(str(error)) from None
        self.y_shape = (self.x_shape[0], self.w_shape[0], *self.problem.output)
        self.x_strides, self.w_strides, self.y_strides = (
            dense_strides(shape, self.channels_last) for shape in (self.x_shape, self.w_shape, self.y_shape)
        )
        # What the bias is added to, and bgrad sums: only the output's sizes matter to its plan.
        self.result_shape, self.result_strides, self.bias_problem = self.y_shape, self.y_strides, self.problem

    # ---- plans ----
    def plan(self, pass_: str) -> Any:
        """The plan of a pass of the call: "fprop", "dgrad", "wgrad" or "bgrad"."""
        return self._plan(pass_)

    def _plan(self, pass_: str, bias: bool = False) -> Any:
        """The plan of a pass of the problem, made when first asked for."""
        key = (pass_, bias)
        if key not in self._plans:
            self._plans[key] = self._make_plan(pass_, bias)
        return self._plans[key]

    def _make_plan(self, pass_: str, bias: bool) -> Any:
        if pass_ not in ("fprop", "dgrad", "wgrad", "bgrad"):
            raise ValueError(f"pass_: expected fprop, dgrad, wgrad or bgrad for a convolution, got {pass_!r}")
        if self.module is None:
            plan = plans.AtenPlan(f"{self.name} {self.dtype} {list(self.input_shape)}", pass_, self.refusal)
            plans.note_aten(plan)
            return plan
        return plans.make_plan(
            self.module,
            self.operation,
            self.bias_problem if pass_ == "bgrad" else self.problem,
            pass_,
            self.settings,
            **self.plan_options(bias),
        )

    def plan_options(self, bias: bool = False) -> dict[str, Any]:
        """What the module's plan depends on besides the problem, the pass and the settings."""
        return {"threads": self.threads, "device": self.device.index or 0, "bias": bias, "math": self.math}

    def _launch(self, pass_: str, bias: bool = False) -> Callable[..., Tensor]:
        return self.launch_of(self._plan(pass_, bias), pass_)

    def launch_of(self, plan: Any, pass_: str) -> Callable[..., Tensor]:
        """``launch(a, b, bias)`` on dense operands: only for plans that are not aten."""
        shape, strides = {
            "fprop": (self.y_shape, self.y_strides),
            "dgrad": (self.x_shape, self.x_strides),
            "wgrad": (self.w_shape, self.w_strides),
            "bgrad": (self.result_shape[1:2], (1,)),
        }[pass_]
        return conv_launch(plan, self.device, self.dtype, shape, strides)

    def _bind_forward(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Callable[..., Tensor]:
        pass_ = self.forward_pass
        if self._plan(pass_, bias is not None).is_aten:
            return self.torch
        launch, channels_last = self._launch(pass_, bias is not None), self.channels_last
        x_strides = self.x_strides if pass_ == "fprop" else self.y_strides
        strides = ((x, x_strides), (w, self.w_strides), (bias, (1,)))
        if all(each is None or is_dense(each, wanted) for each, wanted in strides):
            return launch
        return lambda x, w, bias: launch(
            dense(x, channels_last), dense(w, channels_last), None if bias is None else dense(bias, False)
        )

    def torch(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """PyTorch's own operator on the caller's own arguments; differentiable."""
        return getattr(torch, self.name)(x, w, bias, *self.given)

    @cached_property
    def is_native(self) -> bool:
        """Whether any pass (but bgrad) runs a kernel of ours; where none does, torch's own autograd is leanest."""
        return any(not self._plan(pass_).is_aten for pass_ in ("fprop", "dgrad", "wgrad"))

    @cached_property
    def backward_is_aten(self) -> bool:
        """Whether PyTorch computes both dgrad and wgrad."""
        return self._plan("dgrad").is_aten and self._plan("wgrad").is_aten

    # ---- passes, operands of any strides; each is bound to its plan when first used ----
    def _bind(self, pass_: str, a_strides: Ints, b_strides: Ints, aten: Callable[..., Any]) -> Callable[..., Any]:
        """``run(a, b)``: our kernel on operands made dense, or ``aten`` where the plan is PyTorch's."""
        if self._plan(pass_).is_aten:
            return aten
        launch, channels_last = self._launch(pass_), self.channels_last

        def run(a: Tensor, b: Tensor | None = None) -> Tensor:
            if not is_dense(a, a_strides):
                a = dense(a, channels_last)
            if b is not None and not is_dense(b, b_strides):
                b = dense(b, channels_last)
            return launch(a, b, None)

        return run

    @cached_property
    def fprop(self) -> Callable[[Tensor, Tensor], Tensor]:
        """``fprop(x, w)`` -> y [N, K, *output], without bias."""
        return self._bind("fprop", self.x_strides, self.w_strides, self.aten_fprop)

    @cached_property
    def dgrad(self) -> Callable[[Tensor, Tensor], Tensor]:
        """``dgrad(gy, w)`` -> the gradient of x, from gy [N, K, *output]."""
        return self._bind("dgrad", self.y_strides, self.w_strides, self.aten_dgrad)

    @cached_property
    def wgrad(self) -> Callable[[Tensor, Tensor], Tensor]:
        """``wgrad(x, gy)`` -> the gradient of w."""
        return self._bind("wgrad", self.x_strides, self.y_strides, self.aten_wgrad)

    @cached_property
    def bgrad(self) -> Callable[[Tensor], Tensor]:
        """``bgrad(gy)`` -> the gradient of the bias: gy summed over everything but its channels."""
        return self._bind("bgrad", self.result_strides, (), self.aten_bgrad)

    # ---- the same passes by PyTorch; differentiable, and good under every transform ----
    def aten_fprop(self, x: Tensor, w: Tensor) -> Tensor:
        """y by aten::convolution."""
        zeros = (0,) * self.rank
        return torch.convolution(
            self._pad_extra(x), w, None, self.stride, self.low, self.dilation, False, zeros, self.groups
        )

    def aten_dgrad(self, gy: Tensor, w: Tensor) -> Tensor:
        """gx by aten::convolution_backward."""
        return self.aten_backward(gy, None, w, (True, False))[0]

    def aten_wgrad(self, x: Tensor, gy: Tensor) -> Tensor:
        """gw by aten::convolution_backward."""
        return self.aten_backward(gy, x, None, (False, True))[1]

    def aten_backward(
        self, gy: Tensor, x: Tensor | None, w: Tensor | None, need: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """(gx, gw), each only if needed, by aten::convolution_backward. The operand that a gradient does not depend on
        may be None: only its shape matters.
        """
        x = gy.new_empty(1).expand(self.x_shape) if x is None else x
        w = gy.new_empty(1).expand(self.w_shape) if w is None else w
        zeros = (0,) * self.rank
        gx, gw, _ = torch.ops.aten.convolution_backward(
            gy,
            self._pad_extra(x),
            w,
            None,
            self.stride,
            self.low,
            self.dilation,
            False,
            zeros,
            self.groups,
            (*need, False),
        )
        if gx is not None and any(self.extra):
            for axis, size in enumerate(self.x_shape[2:], start=2):
                gx = gx.narrow(axis, 0, size)
        return gx, gw

    def aten_bgrad(self, gy: Tensor) -> Tensor:
        """gb by aten::sum."""
        return gy.sum([0, *range(2, self.rank + 2)])

    def _pad_extra(self, x: Tensor) -> Tensor:
        """Zeros above, where padding is one more there than below; aten's convolution pads both ends alike."""
        if not any(self.extra):
            return x
        return torch.constant_pad_nd(x, [amount for extra in reversed(self.extra) for amount in (0, extra)])
