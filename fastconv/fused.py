"""Convolution with its epilogue: y = activation(conv(x, w) + bias + residual), in one launch where a kernel does it.

What cannot be fused is *composed* of the best plan for the convolution and PyTorch's operators on its result, in place;
the plan says which of the two it is, and why.

Gradients are closed under differentiation: the activation's comes from what is saved, by PyTorch's own differentiable
operators, and what is left is a convolution (autograd.py). The residual's gradient is the activation's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import plans, settings
from .activations import Activation, activation_of
from .arguments import dense, is_dense
from .autograd import (
    PLAIN_OR_NONE,
    _c_apply,
    _gradients,
    _readable,
    conv_bgrad,
    conv_dgrad,
    conv_wgrad,
)
from .convolution import Convolution
from .dispatch import elsewhere, is_plain, is_watched, ordinary
from .padded import PaddedConvolution
from .precision import torchs_switch
from .repeats import known, remember
from .routes import BY_NAME, _are_constant, _autocast, conv_route

Run = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]

_is_grad_enabled = torch.is_grad_enabled
_threads = torch.get_num_threads


def conv2d_bias_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = "relu",
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    negative_slope: float = 0.01,
    padding_mode: str = "zeros",
) -> Tensor:
    """activation(conv2d(input, weight, bias, stride, padding, dilation, groups) + residual), rounded once.

    For the backward, relu, relu6 and leaky_relu (of a slope >= 0) keep the output; hardswish, silu and gelu keep the
    sum that the activation is applied to, so while gradients are recorded they are an operator of their own after the
    convolution. Input and weight are kept as by conv2d.

    Args:
        input: [N, C, H, W] or [C, H, W].
        weight: [K, C/groups, R, S].
        bias: [K] or None.
        residual: a tensor of the output's shape, of input's dtype and device, or None; one whose memory format is not
            the output's is copied.
        activation: none (or None), relu, relu6, leaky_relu, hardswish, silu, gelu (by erf) or gelu_tanh.
        stride, dilation: an int or a pair.
        padding: an int, a pair, "valid" or "same".
        groups: divides C and K.
        negative_slope: of leaky_relu.
        padding_mode: "zeros", or as for padded_conv2d.

    Returns:
        [N, K, P, Q] (or [K, P, Q]), channels_last if input or weight is.

    Raises:
        ValueError: unknown activation or padding_mode.
        TypeError, RuntimeError: a bad residual; or as torch.nn.functional.conv2d, with a message that names the
            argument.
    """
    arguments = (activation, stride, padding, dilation, groups)
    named = {"negative_slope": negative_slope, "padding_mode": padding_mode}
    if is_watched():
        activation_of(activation)  # or torch would compute before it complains
        return elsewhere(conv2d_bias_act, by_torch, input, weight, bias, residual, *arguments, **named)
    key = (
        conv2d_bias_act,
        activation,
        id(weight),
        id(stride),
        id(padding),
        id(dilation),
        id(groups),
        negative_slope,
        padding_mode,
        bias is None,
        residual is None,
        _is_grad_enabled(),
        settings.current,
        torchs_switch(),
        _threads(),
    )
    tensors = [each for each in (input, weight, bias, residual) if each is not None]
    for check, run, _ in known.get(key, ()):
        if check(*tensors):
            return run(input, weight, bias, residual)
    return _the_long_way(key, input, weight, bias, residual, arguments, named)


def by_torch(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    *arguments: Any,
    negative_slope: float = 0.01,
    padding_mode: str = "zeros",
) -> Tensor:
    """:func:`conv2d_bias_act` by torch.nn.functional alone."""
    kind, arguments = kind_of(arguments, padding_mode)
    y = kind.torchs(2)(input, weight, bias, *arguments)
    return activation_of(activation, negative_slope).apply(y if residual is None else y + residual)


def kind_of(geometry: tuple[Any, ...], padding_mode: str) -> tuple[type[Convolution], tuple[Any, ...]]:
    """The class of the convolution, and its arguments."""
    return (Convolution, geometry) if padding_mode == "zeros" else (PaddedConvolution, (*geometry, padding_mode))


def _the_long_way(
    repeat: Any, x: Any, w: Any, bias: Any, residual: Any, arguments: tuple[Any, ...], named: dict[str, Any]
) -> Tensor:
    act = activation_of(arguments[0], named["negative_slope"])
    if residual is not None and not isinstance(residual, Tensor):
        raise TypeError(f"conv2d_bias_act: residual: expected a Tensor or None, got {type(residual).__name__}")
    tensors = [each for each in (x, w, bias, residual) if each is not None]
    if not (all(is_plain(each) for each in tensors) and ordinary()):
        return elsewhere(conv2d_bias_act, by_torch, x, w, bias, residual, *arguments, **named)
    if x.dim() == 3:
        if residual is not None and residual.dim() == 3:
            residual = residual.unsqueeze(0)
        return conv2d_bias_act(x.unsqueeze(0), w, bias, residual, *arguments, **named).squeeze(0)
    operands = _autocast(x, w, bias, residual)
    kind, geometry = kind_of(arguments[1:], named["padding_mode"])
    conv = conv_route(kind, 2, *operands[:3], *geometry)
    if _pads_first(conv, bias):  # then the epilogue is that of a convolution without padding
        activation, stride, _, *others = arguments
        unpadded = (activation, stride, 0, *others)
        return conv2d_bias_act(conv.pad(x), w, bias, residual, *unpadded, negative_slope=named["negative_slope"])
    recorded = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    if not isinstance(conv, Convolution) or conv.module is None:
        return _torchs(conv, act)(*operands)
    check_residual(operands[3], conv.y_shape, operands[0])
    run = fused_of(conv, act, bias is not None, residual is not None).runner(*operands, recorded)
    result = run(*operands)
    is_cast = any(a is not b for a, b in zip(operands, (x, w, bias, residual), strict=True))
    if not is_cast and _are_constant(arguments):
        remember(repeat, (arguments, named), run, *tensors)
    return result


def _pads_first(conv: Any, bias: Any) -> bool:
    return isinstance(conv, PaddedConvolution) and conv.module is not None and conv.pads_first(bias is not None)


def check_residual(
    residual: Tensor | None, shape: tuple[int, ...], x: Tensor, function: str = "conv2d_bias_act"
) -> None:
    """Raises RuntimeError unless the residual can be added to an output of this shape, for an input x."""
    if residual is None:
        return
    if tuple(residual.shape) != tuple(shape):
        raise RuntimeError(
            f"{function}: residual: expected shape {list(shape)}, that of the output, got {list(residual.shape)}"
        )
    for what in ("dtype", "device"):
        wanted, given = getattr(x, what), getattr(residual, what)
        if wanted != given:
            raise RuntimeError(f"{function}: residual: expected {wanted}, the {what} of input, got {given}")


# ---- plans ----
@dataclass(frozen=True)
class ComposedPlan:
    """The ``convolution``'s plan, and PyTorch's operators for the rest; ``reason``: why nothing fuses them. Same face
    as a module's plan.
    """

    convolution: Any
    after: str
    reason: str
    fused: bool = False

    def __getattr__(self, name: str) -> Any:
        """All else is the convolution's."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.convolution, name)

    @property
    def detail(self) -> str:
        """The convolution's, and what comes after it."""
        return ", ".join(filter(None, (self.convolution.detail, f"then {self.after} by PyTorch")))

    def explain(self) -> str:
        """The convolution's page, and what comes after it."""
        return f"{self.convolution.explain()}  then      {self.after} by PyTorch, in place: {self.reason}\n"

    def __repr__(self) -> str:
        """In one line."""
        return f"{self.convolution!r} then {self.after}"


class FusedConvolution:
    """A convolution with one kind of epilogue: its plan, and what runs it."""

    def __init__(self, conv: Convolution, act: Activation, bias: bool, residual: bool) -> None:
        """Plans it."""
        self.conv, self.act = conv, act
        # What a pin is about: the convolution, whatever its epilogue.
        self.module, self.operation, self.plan_options = conv.module, conv.operation, conv.plan_options
        self.epilogue = self._plan(bias, residual)
        if not self.is_composed:
            self.launch = conv.launch_of(self.epilogue, "fprop")

    @property
    def is_composed(self) -> bool:
        """Whether PyTorch's operators do a part of it (all of it, where there is nothing to fuse)."""
        return isinstance(self.epilogue, ComposedPlan) or self.epilogue.is_aten

    def plan(self, pass_: str) -> Any:
        """The pass's plan; that of fprop has the epilogue."""
        return self.epilogue if pass_ == "fprop" else self.conv.plan(pass_)

    def _plan(self, bias: bool, residual: bool) -> Any:
        conv, act = self.conv, self.act
        if not residual and act.name == "none":
            return conv._plan("fprop", bias)
        after = " and ".join(filter(None, ("add" if residual else "", act.name if act.name != "none" else "")))
        options = {**conv.plan_options(bias), "residual": residual, "activation": act.name, "slope": act.slope}
        try:
            plan = plans.make_plan(conv.module, "conv", conv.problem, "fprop", conv.settings, **options)
            if not plan.is_aten:
                return plan
        except RuntimeError:  # the kernel that use_kernel asks for fuses nothing
            pass
        # Without a kernel asked for there is always a plan, if only PyTorch's.
        candidates = conv.module.conv_plan(conv.problem, "fprop", **options).candidates
        name = conv.settings.kernel
        ours = [each for each in candidates if each.kernel != "aten" and name in (None, "native", each.kernel)]
        refusals = [f"{each.kernel} {each.reason}" for each in ours if not each.accepted]
        reason = "; ".join(refusals) if len(refusals) == len(ours) else "a kernel that fuses them would be slower"
        return ComposedPlan(conv._plan("fprop", bias), after, reason)

    # ---- running ----
    def runner(self, x: Tensor, w: Tensor, bias: Tensor | None, residual: Tensor | None, recorded: bool) -> Run:
        """What runs calls with operands of these strides, recording gradients or not."""
        conv, act = self.conv, self.act
        if not recorded:
            return self._forward(x, w, bias, residual)
        if not conv.is_native:
            return _torchs(conv, act)
        if act.backward is None:  # the sum is kept: make it, then let torch apply the activation and keep it
            inner = fused_of(conv, activation_of("none"), bias is not None, residual is not None)
            run = inner.runner(x, w, bias, residual, True)
            return lambda *operands: act.apply(run(*operands))
        forward = self._forward(x, w, bias, residual)
        return lambda x, w, bias, residual: _apply(x, w, bias, residual, conv, act, forward)

    def _forward(self, x: Tensor, w: Tensor, bias: Tensor | None, residual: Tensor | None) -> Run:
        conv = self.conv
        if self.is_composed:
            return self._composed
        launch, channels_last = self.launch, conv.channels_last
        strides = ((x, conv.x_strides), (w, conv.w_strides), (bias, (1,)), (residual, conv.y_strides))
        if all(each is None or is_dense(each, wanted) for each, wanted in strides):
            return launch
        return lambda x, w, bias, residual: launch(
            dense(x, channels_last),
            dense(w, channels_last),
            None if bias is None else dense(bias, False),
            None if residual is None else dense(residual, channels_last),
        )

    def _composed(self, x: Tensor, w: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        y = self.conv.forward(x, w, bias)
        return self.act.replace(y if residual is None else y.add_(residual))


def _torchs(conv: Any, act: Activation) -> Run:
    """The composition by torch's differentiable operators; ``conv`` is any route."""

    def run(x: Tensor, w: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        y = conv.torch(x, w, bias)
        check_residual(residual, y.shape, x)
        return act.apply(y if residual is None else y + residual)

    return run


def fused_of(conv: Convolution, act: Activation, bias: bool, residual: bool) -> FusedConvolution:
    """The one FusedConvolution of these."""
    key = (act, bias, residual)
    if key not in conv.epilogues:
        conv.epilogues[key] = FusedConvolution(conv, act, bias, residual)
    return conv.epilogues[key]


# ---- gradients ----
class ConvEpilogue(Function):
    """y = act(fprop(x, w) + bias + residual), for an activation whose gradient y determines."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        conv: Convolution,
        act: Activation,
        run: Run,
    ) -> Tensor:
        """Keeps y, and an operand only if the other's gradient will be asked for."""
        need = ctx.needs_input_grad
        y = run(x, w, bias, residual)
        ctx.save_for_backward(x if need[1] else None, w if need[0] else None, None if act.name == "none" else y)
        ctx.conv, ctx.act = conv, act
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        """Only what is asked for."""
        conv, (x, w, y) = ctx.conv, ctx.saved_tensors
        need = ctx.needs_input_grad
        g = ctx.act.backward(gy, y)
        plain = all(type(each) in PLAIN_OR_NONE for each in (x, w))
        if not torch.is_grad_enabled() and _readable(g) and plain:
            gradients = _gradients(conv, g, x, w, need)
        else:
            gradients = (
                conv_dgrad(conv, g, w) if need[0] else None,
                conv_wgrad(conv, x, g) if need[1] else None,
                conv_bgrad(conv, g) if need[2] else None,
            )
        return *gradients, g if need[3] else None, None, None, None


_apply = _c_apply(ConvEpilogue)


def _conv2d_bias_act_route(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = "relu",
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    negative_slope: float = 0.01,
    padding_mode: str = "zeros",
) -> Any:
    act = activation_of(activation, negative_slope)
    x = input.unsqueeze(0) if input.dim() == 3 else input
    operands = _autocast(x, weight, bias)
    kind, geometry = kind_of((stride, padding, dilation, groups), padding_mode)
    conv = conv_route(kind, 2, *operands, *geometry)
    if not isinstance(conv, Convolution) or conv.module is None:
        return conv
    inner = conv.inner if _pads_first(conv, bias) else conv
    fused = fused_of(inner, act, bias is not None, residual is not None)
    return fused if inner is conv else _PadsFirst(conv, bias is not None, fused)


class _PadsFirst:
    """The route of a call that pads first, and then is ``fused``, of the padded input."""

    def __init__(self, conv: PaddedConvolution, bias: bool, fused: FusedConvolution) -> None:
        self.module, self.operation, self.plan_options = conv.module, conv.operation, conv.plan_options
        self.conv, self.bias, self.fused = conv, bias, fused

    def plan(self, pass_: str) -> Any:
        """The pass's plan; that of fprop has the epilogue."""
        if pass_ != "fprop":
            return self.conv.plan(pass_)
        return replace(self.conv._plan("fprop", self.bias), inner=self.fused.plan("fprop"))


BY_NAME["conv2d_bias_act"] = _conv2d_bias_act_route
