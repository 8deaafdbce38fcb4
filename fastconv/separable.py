"""Depthwise-separable convolution: a depthwise convolution, then a pointwise one that mixes its channels.

    z = act1(depthwise(x, depthwise_weight) + depthwise_bias)    [N, C*m, P, Q]
    y = act2(pointwise(z, pointwise_weight) + bias + residual)   [N, K, P, Q]

While gradients are recorded z is not kept: backward makes it again from x, which costs a depthwise convolution (a few
per cent of the pair's products) and saves as many bytes as z has. What is kept is x and the parameters. Gradients are
closed under differentiation: z is made by differentiable operators, and the rest is a convolution (autograd.py).

Forward is one launch, with z on chip, where a kernel does it and is predicted to be cheaper than the best plans of the
two convolutions, each with its epilogue in its own launch (separable_plans.py); the plan says which, and why.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as torch_functional

from . import fused
from .activations import Activation, activation_of
from .autograd import conv_bgrad, conv_dgrad, conv_wgrad
from .convolution import Convolution
from .dispatch import elsewhere, is_plain, is_watched, ordinary
from .fused import check_residual, conv2d_bias_act
from .routes import BY_NAME, _arguments, _autocast, conv_route
from .separable_plans import FusedSeparable, SeparablePlan, fused_of


def separable_conv2d(
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *,
    depthwise_bias: Tensor | None = None,
    depthwise_activation: str | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    negative_slope: float = 0.01,
    padding_mode: str = "zeros",
) -> Tensor:
    """A depthwise convolution of every channel, then a 1x1 convolution across them (Xception, arXiv:1610.02357).

    activation(conv2d(z, pointwise_weight, bias) + residual), where
    z = depthwise_activation(conv2d(input, depthwise_weight, depthwise_bias, stride, padding, dilation, groups=C)).
    z is not kept for the backward, which makes it again; :func:`fastconv.plan` says how many bytes that saves.

    Args:
        input: [N, C, H, W] or [C, H, W].
        depthwise_weight: [C*m, 1, R, S]; m filters for each channel.
        pointwise_weight: [K, C*m, 1, 1].
        bias: [K] or None, of the pointwise convolution.
        stride, dilation: an int or a pair, of the depthwise convolution.
        padding: an int, a pair, "valid" or "same", of the depthwise convolution.
        depthwise_bias: [C*m] or None.
        depthwise_activation, activation: as for conv2d_bias_act; None: none.
        residual: a tensor of the output's shape, of input's dtype and device, or None.
        negative_slope: of leaky_relu.
        padding_mode: of the depthwise convolution: "zeros", or as for padded_conv2d.

    Returns:
        [N, K, P, Q] (or [K, P, Q]), channels_last if input or a weight is.

    Raises:
        ValueError: unknown activation or padding_mode.
        TypeError, RuntimeError: bad arguments, with a message that names the argument.
    """
    between, after = activation_of(depthwise_activation, negative_slope), activation_of(activation, negative_slope)
    operands = (input, depthwise_weight, depthwise_bias, pointwise_weight, bias, residual)
    if is_watched() or not (ordinary() and all(is_plain(each) for each in operands if each is not None)):
        return elsewhere(
            separable_conv2d,
            by_torch,
            *(input, depthwise_weight, pointwise_weight, bias, stride, padding, dilation),
            depthwise_bias=depthwise_bias,
            depthwise_activation=depthwise_activation,
            activation=activation,
            residual=residual,
            negative_slope=negative_slope,
            padding_mode=padding_mode,
        )
    return _in_order(*operands, (stride, padding, dilation, padding_mode), between, after)


def by_torch(
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    *,
    depthwise_bias: Tensor | None,
    depthwise_activation: str | None,
    activation: str | None,
    residual: Tensor | None,
    negative_slope: float,
    padding_mode: str,
) -> Tensor:
    """:func:`separable_conv2d` by torch.nn.functional alone."""
    check(input, depthwise_weight, depthwise_bias, pointwise_weight, bias, residual)
    geometry = (stride, padding, dilation, input.shape[-3])
    named = {"negative_slope": negative_slope, "padding_mode": padding_mode}
    z = fused.by_torch(input, depthwise_weight, depthwise_bias, None, depthwise_activation, *geometry, **named)
    y = torch_functional.conv2d(z, pointwise_weight, bias)
    return activation_of(activation, negative_slope).apply(y if residual is None else y + residual)


def _in_order(
    x: Tensor,
    dw: Tensor,
    db: Tensor | None,
    pw: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    geometry: tuple[Any, Any, Any, str],
    between: Activation,
    after: Activation,
) -> Tensor:
    check(x, dw, db, pw, bias, residual)
    if x.dim() == 3:
        if residual is not None and residual.dim() == 3:
            residual = residual.unsqueeze(0)
        return _in_order(x.unsqueeze(0), dw, db, pw, bias, residual, geometry, between, after).squeeze(0)
    x, dw, db, pw, bias, residual = operands = _autocast(x, dw, db, pw, bias, residual)
    if not (torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in operands)):
        return _run(x, dw, db, pw, bias, residual, geometry, between, after)
    y = _Separable.apply(x, dw, db, pw, bias, geometry, between)
    check_residual(residual, y.shape, x, "separable_conv2d")
    return after.apply(y if residual is None else y + residual)


def _run(
    x: Tensor,
    dw: Tensor,
    db: Tensor | None,
    pw: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    geometry: tuple[Any, Any, Any, str],
    between: Activation,
    after: Activation,
) -> Tensor:
    """By the kernel that does all of it, where that is the plan; else by the two convolutions."""
    whole = _whole(x, dw, db, pw, bias, residual, geometry, between, after)
    if whole is not None and whole.run is not None:
        check_residual(residual, whole.shape, x, "separable_conv2d")
        return whole.run(x, dw, db, pw, bias, residual)
    z = _depthwise(x, dw, db, geometry, between)
    check_residual(residual, (z.shape[0], pw.shape[0], *z.shape[2:]), x, "separable_conv2d")
    return conv2d_bias_act(z, pw, bias, residual, after.name, negative_slope=after.slope)


def _depthwise(
    x: Tensor, dw: Tensor, db: Tensor | None, geometry: tuple[Any, Any, Any, str], act: Activation
) -> Tensor:
    *geometry, mode = geometry
    named = {"negative_slope": act.slope, "padding_mode": mode}
    return conv2d_bias_act(x, dw, db, None, act.name, *geometry, x.shape[1], **named)


def _whole(
    x: Tensor,
    dw: Tensor,
    db: Tensor | None,
    pw: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    geometry: tuple[Any, Any, Any, str],
    between: Activation,
    after: Activation,
) -> FusedSeparable | None:
    *numbers, mode = geometry
    kind, arguments = fused.kind_of((*numbers, x.shape[1]), mode)
    conv = conv_route(kind, 2, x, dw, db, *arguments)
    return fused_of(conv, pw, (db is not None, bias is not None, residual is not None), between, after)


def check(x: Any, dw: Any, db: Any, pw: Any, bias: Any, residual: Any) -> None:
    """What the two convolutions could not say in terms of this function's arguments.

    Raises:
        TypeError: an argument is not a tensor.
        RuntimeError: a shape, dtype or device does not fit the others.
    """
    required = {"input": x, "depthwise_weight": dw, "pointwise_weight": pw}
    optional = {"depthwise_bias": db, "bias": bias, "residual": residual}
    given = required | {name: each for name, each in optional.items() if each is not None}
    for name, each in given.items():
        if not isinstance(each, Tensor):
            raise TypeError(f"separable_conv2d: {name}: expected a Tensor, got {type(each).__name__}")
    if x.dim() not in (3, 4):
        raise RuntimeError(f"separable_conv2d: input: expected [N, C, H, W] or [C, H, W], got {list(x.shape)}")
    channels = x.shape[-3]
    many = dw.shape[0] if dw.dim() else 0
    if dw.dim() != 4 or dw.shape[1] != 1 or channels == 0 or many % channels or not many:
        shape = f"[{channels}*m, 1, R, S], m filters for each of {channels} channels"
        raise RuntimeError(f"separable_conv2d: depthwise_weight: expected {shape}, got {list(dw.shape)}")
    if pw.dim() != 4 or tuple(pw.shape[1:]) != (many, 1, 1):
        shape = f"[K, {many}, 1, 1], as many channels as depthwise_weight makes"
        raise RuntimeError(f"separable_conv2d: pointwise_weight: expected {shape}, got {list(pw.shape)}")
    for name, each, length in (("depthwise_bias", db, many), ("bias", bias, pw.shape[0])):
        if each is not None and tuple(each.shape) != (length,):
            raise RuntimeError(f"separable_conv2d: {name}: expected shape [{length}], got {list(each.shape)}")
    if not torch.is_autocast_enabled(x.device.type):
        for what in ("dtype", "device"):
            for name, each in given.items():
                if getattr(each, what) != getattr(x, what):
                    wanted, got = getattr(x, what), getattr(each, what)
                    raise RuntimeError(f"separable_conv2d: {name}: expected {wanted}, the {what} of input, got {got}")


# ---- gradients ----
class _Separable(Function):
    """pointwise(act(depthwise(x))) + bias, keeping its operands only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dw: Tensor,
        db: Tensor | None,
        pw: Tensor,
        bias: Tensor | None,
        geometry: tuple[Any, Any, Any, str],
        act: Activation,
    ) -> Tensor:
        """z lives only as long as this runs."""
        ctx.save_for_backward(x, dw, db, pw)
        ctx.geometry, ctx.act = geometry, act
        return _run(x, dw, db, pw, bias, None, geometry, act, activation_of(None))

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        """Makes z again, recorded from what it is made of: the same graph serves derivatives of every order."""
        x, dw, db, pw = ctx.saved_tensors
        need = ctx.needs_input_grad
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            sources = [each for each, wanted in zip((x, dw, db), need, strict=False) if wanted]
            z = _depthwise(x, dw, db, ctx.geometry, ctx.act)
        with torch.set_grad_enabled(again):
            gz, g_pw, g_bias = _pointwise_gradients(z if again else z.detach(), pw, gy, (bool(sources), *need[3:5]))
            of_depthwise = torch.autograd.grad(z, sources, gz, create_graph=again) if sources else ()
        found = iter(of_depthwise)
        return *(next(found) if wanted else None for wanted in need[:3]), g_pw, g_bias, None, None


def _pointwise_gradients(z: Tensor, pw: Tensor, gy: Tensor, need: tuple[bool, bool, bool]) -> tuple[Tensor | None, ...]:
    conv = conv_route(Convolution, 2, z, pw, None, 1, 0, 1, 1)
    if isinstance(conv, Convolution) and conv.module is not None:
        return (
            conv_dgrad(conv, gy, pw) if need[0] else None,
            conv_wgrad(conv, z, gy) if need[1] else None,
            conv_bgrad(conv, gy) if need[2] else None,
        )
    k = pw.shape[0]
    mask = list(need)
    return torch.ops.aten.convolution_backward(gy, z, pw, [k], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, mask)


# ---- plans ----
class _Route:
    """The pair of routes of a call that is not run."""

    module = None

    def __init__(self, depthwise: Any, pointwise: Any, between_bytes: int, whole: Any) -> None:
        self.depthwise, self.pointwise, self.between_bytes, self.whole = depthwise, pointwise, between_bytes, whole

    def plan(self, pass_: str) -> SeparablePlan:
        """Of one pass."""
        whole = self.whole if pass_ == "fprop" else None
        return SeparablePlan(self.depthwise.plan(pass_), self.pointwise.plan(pass_), self.between_bytes, pass_, whole)


def _route(*args: Any, **kwargs: Any) -> _Route:
    given = _arguments("separable_conv2d", args, kwargs)
    input, depthwise_weight, pointwise_weight, bias, stride, padding, dilation, *named = given
    depthwise_bias, depthwise_activation, activation, residual, negative_slope, padding_mode = named
    geometry, slope = (stride, padding, dilation), {"negative_slope": negative_slope}
    check(input, depthwise_weight, depthwise_bias, pointwise_weight, bias, residual)
    x = input.unsqueeze(0) if input.dim() == 3 else input
    route = BY_NAME["conv2d_bias_act"]
    operands = (x, depthwise_weight, depthwise_bias, None)
    first = route(*operands, depthwise_activation, *geometry, x.shape[1], **slope, padding_mode=padding_mode)
    # The shape and layout of z, without computing it.
    with torch.device("meta"):
        meta = torch_functional.conv2d(
            torch.empty_like(x, device="meta"),
            torch.empty_like(depthwise_weight, device="meta"),
            None,
            *geometry,
            x.shape[1],
        )
    z = torch.empty_like(meta, device=x.device)
    second = route(z, pointwise_weight, bias, residual, activation, **slope)
    acts = (activation_of(depthwise_activation, negative_slope), activation_of(activation, negative_slope))
    operands = _autocast(x, depthwise_weight, depthwise_bias, pointwise_weight, bias, residual)
    whole = _whole(*operands, (*geometry, padding_mode), *acts)
    return _Route(first, second, z.numel() * z.element_size(), None if whole is None else whole.plan)


BY_NAME["separable_conv2d"] = _route
