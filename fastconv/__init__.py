"""fastconv: hand-written CUDA convolution and pooling behind torch.nn's own interface.

Swap ``torch.nn.Conv2d`` for ``fastconv.nn.Conv2d``, or call ``fastconv.convert(model)``.
"""

from . import functional, nn, settings
from ._version import __version__
from .backends import backends, use_backend, use_kernel
from .convert import convert, report, revert
from .plans import explain, plan
from .precision import precision
from .results import empty_cache
from .tuning import tune

__all__ = [
    "__version__",
    "backends",
    "convert",
    "empty_cache",
    "explain",
    "functional",
    "nn",
    "plan",
    "precision",
    "report",
    "revert",
    "settings",
    "tune",
    "use_backend",
    "use_kernel",
]
