"""Whether a call is plain eager execution, and what happens to it where it is not.

fastconv's kernels read and write memory behind torch's back, which is right only where nothing watches or transforms
the computation. Whatever does (a functorch transform, forward-mode AD, tracing, a dispatch mode, a tensor subclass)
gets torch.nn.functional's own operator, which it knows how to handle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from .plans import log

#: Exactly these types hold their own memory and have no behaviour of their own.
PLAIN = frozenset({Tensor, Parameter})

_transforms_active = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_mode = torch._C._is_torch_function_mode_enabled
_tracing_state = torch._C._get_tracing_state
# What grad(is_grads_batched=True) hands to a backward; a torch that has dropped the old vmap has none.
_is_legacy_batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda _: False)
is_compiling = torch.compiler.is_compiling
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


def is_watched() -> bool:
    """Whether something is active that a tensor's dispatch keys do not show: torch.compile, a torch-function mode or
    forward-mode AD. (What they do show, repeats.py checks.)
    """
    return is_compiling() or _function_mode() or forward_ad._current_level >= 0


def ordinary() -> bool:
    """Whether no transform, mode or tracer at all is active."""
    return (
        not _transforms_active()
        and not _dispatch_modes()
        and not _function_mode()
        and forward_ad._current_level < 0
        and _tracing_state() is None
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether this is a tensor with memory that a kernel may read."""
    return (
        type(tensor) in PLAIN
        and tensor.layout is torch.strided
        and not _is_legacy_batched(tensor)
        and not tensor._is_zerotensor()
    )


def elsewhere(function: Callable[..., Any], torch_function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run ``function``'s call where :func:`ordinary` does not hold, or where a tensor is not plain.

    Under torch.compile that is a graph break and then ``function`` itself, eagerly; a torch-function mode sees
    ``function`` as it would any torch function; all else gets ``torch_function``.
    """
    if is_compiling() and not _is_exporting():
        return _outside_graph(function, *args, **kwargs)
    tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    if _function_mode() and all(type(each) in PLAIN for each in tensors):
        return torch.overrides.handle_torch_function(function, tensors, *args, **kwargs)
    log.debug("aten runs %s: not plain eager execution", function.__name__)
    return torch_function(*args, **kwargs)


@torch._disable_dynamo
def _outside_graph(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)
