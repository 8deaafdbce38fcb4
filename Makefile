# The two commands of the README are `make demo` and `make test`; the rest are the developer's habits.
# Each needs only Python >= 3.10, a C++ compiler and make: it makes .venv, installs, builds, runs. Again is quick.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
# cmake, ninja, nvcc and ptxas may come from PyPI: they are found in .venv.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
TORCH  ?= torch==2.13.0
ARGS   ?=
# Development builds also have the modules that the emulator's and the conformance tests drive.
export CMAKE_ARGS ?= -DFASTCONV_TESTS=ON

.PHONY: demo test test-all build sanitize lint format resources bench gpu clean

demo: build
	$(PY) -m fastconv demo $(ARGS)

test: build
	$(PY) -m pytest -n 2 $(ARGS)

# Hours, not minutes: rigorous suites under every schedule, the race checker, the sanitizers, fuzzing.
test-all: test
	$(PY) -m pip install --quiet --no-deps nvidia-cutlass # CuTe's layouts, a second opinion on ours
	$(PY) -m pytest -n 2 -m slow $(ARGS)
	$(MAKE) sanitize

build: $(VENV)/installed
	$(PY) setup.py --quiet build_ext --inplace

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and pinned, so that nothing after it resolves another build of it; then what setup.py says it lacks.
$(VENV)/installed: $(VENV)/bin/python pyproject.toml setup.py
	$(PY) -m pip install --quiet --upgrade "pip>=24" "setuptools>=70" "pybind11>=2.12" $(TORCH) numpy
	$(PY) -c "import sys; from setuptools import build_meta as b; open(sys.argv[1], 'w').write('\n'.join(b.get_requires_for_build_editable()))" $(VENV)/requires.txt > /dev/null
	$(PY) -m pip install --quiet -r $(VENV)/requires.txt
	$(PY) -m pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@

# A second build with ASan and UBSan in the host modules, beside links to the same Python files.
SANITIZED := build/sanitize
sanitize: build
	mkdir -p $(SANITIZED)/fastconv
	ln -sfn $(CURDIR)/fastconv/*.py $(dir $(wildcard $(CURDIR)/fastconv/*/__init__.py)) $(SANITIZED)/fastconv/
	cmake -S . -B $(SANITIZED)/cmake -G Ninja -DFASTCONV_SANITIZE=ON -DFASTCONV_CUDA=OFF -DFASTCONV_TESTS=ON \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DPython_EXECUTABLE=$(CURDIR)/$(PY) \
	  -Dpybind11_DIR=$$($(PY) -m pybind11 --cmakedir) -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(CURDIR)/$(SANITIZED)/fastconv
	cmake --build $(SANITIZED)/cmake
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	  PYTHONSAFEPATH=1 PYTHONPATH=$(SANITIZED):. $(PY) -m pytest -p no:cacheprovider $(SANITIZE_TESTS) $(ARGS)
SANITIZE_TESTS ?= tests/test_emulator*.py tests/test_cpu*.py tests/test_kernels*.py

lint: $(VENV)/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/installed
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CXX_FILES)

CXX_FILES = $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu')

# Registers, shared memory and spills of every CUDA kernel as built, then what the tensor-core kernels' main loops issue;
# fails on any spill, and where a main loop is not made of what it should be.
resources: build
	$(PY) -m bench.resources
	$(PY) -m bench.sass

bench: build
	$(PY) -m bench --suite quick $(ARGS)

# The one GPU command: needs a GPU, nvcc, and the Python packages already installed; touches no network.
GPU_PYTHON ?= python3
gpu:
	FASTCONV_REQUIRE_CUDA=1 CMAKE_ARGS=-DFASTCONV_TESTS=ON $(GPU_PYTHON) setup.py --quiet build_ext --inplace
	$(GPU_PYTHON) -m bench.gpu

clean:
	rm -rf build $(VENV) fastconv/*.so *.egg-info
