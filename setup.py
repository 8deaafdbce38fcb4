"""Builds the three extension modules with CMake, the one build description (CMakeLists.txt).

Environment: FASTCONV_CUDA=0 builds without CUDA; FASTCONV_REQUIRE_CUDA=1 makes a missing nvcc fatal;
FASTCONV_ARCHITECTURES is passed on ("80-real;90a-real"); CMAKE_ARGS holds further arguments.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
WITHOUT_CUDA = os.environ.get("FASTCONV_CUDA", "").upper() in ("0", "OFF")
REQUIRE_CUDA = os.environ.get("FASTCONV_REQUIRE_CUDA", "").upper() in ("1", "ON")
# nvcc as PyPI packages: all of one release, or its parts do not fit together.
PYPI_TOOLKIT = [f"nvidia-{part}==13.0.*" for part in ("cuda-nvcc", "nvvm", "cuda-crt", "cuda-runtime", "cuda-cccl")]


def runs(nvcc: Path) -> bool:
    """Whether it is a compiler, and not a wrapper or a link that outlived its toolkit."""
    return nvcc.is_file() and subprocess.run([nvcc, "--version"], capture_output=True).returncode == 0


@functools.cache
def find_nvcc() -> Path | None:
    """The nvcc to use: CUDACXX, CUDA_HOME, PATH, the usual place, then the PyPI packages."""
    named = [os.environ.get("CUDACXX"), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    if home := os.environ.get("CUDA_HOME"):
        named.insert(1, f"{home}/bin/nvcc")
    spec = importlib.util.find_spec("nvidia")
    roots = list(spec.submodule_search_locations) if spec else []
    found = (Path(path) for path in [*named, *(f"{root}/cu13/bin/nvcc" for root in roots)] if path)
    return next((path for path in found if runs(path)), None)


def build_requirements() -> list[str]:
    """What the machine lacks: asked by pip before an isolated build, and by the Makefile."""
    missing = [f"{tool}>={least}" for tool, least in (("cmake", "3.22"), ("ninja", "1.10")) if not shutil.which(tool)]
    return missing + ([] if WITHOUT_CUDA or find_nvcc() else PYPI_TOOLKIT)


@contextlib.contextmanager
def build_directory(nvcc: Path | None) -> Iterator[Path]:
    """One per Python and compiler, kept for rebuilds; a temporary one if isolated, where the tools vanish."""
    if "pip-build-env" in pybind11.get_cmake_dir():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        compiler = hashlib.sha256(str(nvcc).encode()).hexdigest()[:8] if nvcc else "host"
        yield ROOT / "build" / f"{sys.implementation.cache_tag}-{compiler}"


class CMakeBuild(build_ext):
    """One CMake run builds every module, next to where setuptools expects the first."""

    def run(self) -> None:
        """In-place and editable builds put the modules straight into the source tree: setuptools would copy them there,
        but knows nothing of the test modules.
        """
        self.in_tree = bool(self.inplace)
        super().run()

    def build_extensions(self) -> None:
        """Configure and build; a module that this build leaves out is removed where an older build left it."""
        built = Path(self.get_ext_fullpath("fastconv._cpu")).resolve().parent
        output = ROOT / "fastconv" if self.in_tree else built
        nvcc = None if WITHOUT_CUDA else find_nvcc()
        if nvcc is None and REQUIRE_CUDA:
            raise RuntimeError("FASTCONV_REQUIRE_CUDA=1, but no nvcc was found (CUDACXX, CUDA_HOME, PATH, PyPI)")
        if nvcc is None:
            print("fastconv: building WITHOUT the CUDA module:", "FASTCONV_CUDA=0" if WITHOUT_CUDA else "no nvcc found")
            for stale in output.glob("_cuda*.so"):
                stale.unlink()
        with build_directory(nvcc) as folder:
            arguments = self.cmake_arguments(nvcc, output)
            subprocess.run(["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *arguments], check=True)
            subprocess.run(["cmake", "--build", folder], check=True)

    def cmake_arguments(self, nvcc: Path | None, output: Path) -> list[str]:
        """The configuration as CMake -D arguments."""
        arguments = {
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": output,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "FASTCONV_CUDA": "ON" if nvcc else "OFF",
        }
        if nvcc:
            arguments["CMAKE_CUDA_COMPILER"] = nvcc
            # PyPI's toolkit has lib where nvcc.profile looks in lib64: without this CMake's compiler check fails.
            arguments["CMAKE_CUDA_FLAGS"] = f"-L{nvcc.parent.parent}/lib"
        if architectures := os.environ.get("FASTCONV_ARCHITECTURES"):
            arguments["FASTCONV_ARCHITECTURES"] = architectures
        return [f"-D{name}={value}" for name, value in arguments.items()] + os.environ.get("CMAKE_ARGS", "").split()

    def copy_extensions_to_source(self) -> None:
        """CMake has put them there already (see run)."""


modules = ["_cpu", "_emulator"] + ([] if WITHOUT_CUDA or not (find_nvcc() or REQUIRE_CUDA) else ["_cuda"])
setup(
    ext_modules=[Extension(f"fastconv.{name}", sources=[]) for name in modules],
    cmdclass={"build_ext": CMakeBuild},
    setup_requires=build_requirements() if "egg_info" in sys.argv else [],
)
