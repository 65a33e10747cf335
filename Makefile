# `make demo` and `make test` do their own set-up in .venv; all they need is Python >= 3.10 with venv, a C++17
# compiler, and (for the CUDA kernels) nvcc on PATH. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
# SETUP=0: use $(PYTHON) with the packages it has; install nothing (for machines without a package index).
SETUP ?= 1
# Cards that `make test` compiles the CUDA sources for: the local one, else one kind, to keep it short.
TEST_CUDA_ARCHITECTURES ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo native || echo 90)
PYTEST_FLAGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

ifeq ($(SETUP),1)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
PY := $(CURDIR)/$(VENV)/bin/python
else
PY := $(PYTHON)
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1
CPP_FILES = $(shell find csrc bindings tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
SOURCES = pyproject.toml CMakeLists.txt $(shell find csrc bindings cellpost -type f -not -name '*.pyc' -not -name '*.so')

.PHONY: help demo test test-slide lint pytest doctest cpptest gpu bench clean

help:
	@echo "make demo   install in $(VENV) and segment a real image: demo_masks.tif, demo_overlay.png"
	@echo "make test   all tests and checks (sets up $(VENV) itself)"
	@echo "make lint   the checks alone;  make pytest | doctest | cpptest  the tests alone"
	@echo "make test-slide  the tests of slides, the long ones, too"
	@echo "make bench  benchmarks, beside the peers;  make gpu  builds, tests and measures on the local GPU"
	@echo "make clean  remove what was built, $(VENV) included"

# ---- set-up ----------------------------------------------------------------------------------------------------
$(VENV)/bin/python:
	@command -v "$(PYTHON)" >/dev/null || { echo "make: no $(PYTHON) found; install Python 3.10 or later, or say make PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: cellpost needs Python 3.10 or later; $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Say make PYTHON=..." >&2; exit 1; }
	@command -v "$${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || \
	  { echo "make: no C++ compiler found (c++, g++ or \$$CXX)" >&2; exit 1; }
	@"$(PYTHON)" -m venv "$(VENV)" || \
	  { rm -rf "$(VENV)"; echo "make: $(PYTHON) cannot make a virtual environment (on Debian: apt install python3-venv)" >&2; exit 1; }

$(VENV)/demo.done: $(SOURCES) | $(VENV)/bin/python
	$(PY) -m pip install --quiet ".[demo]"
	@touch $@

$(VENV)/packages.done: requirements/test.txt requirements/peers.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet -r requirements/test.txt
	$(PY) -m pip install --quiet --no-deps -r requirements/peers.txt
	@touch $@

# The package as a user gets it (a wheel), with warnings as errors; build/wheel keeps the objects between runs.
$(VENV)/test.done: $(SOURCES) $(VENV)/packages.done
	$(PY) -m pip install --quiet --no-build-isolation --no-deps --force-reinstall \
	  --config-settings=build-dir=build/wheel \
	  --config-settings=cmake.define.CELLPOST_WERROR=ON \
	  --config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=$(TEST_CUDA_ARCHITECTURES) .
	@touch $@
	@cd $(VENV) && $(PY) -c "import cellpost; i = cellpost.info(); \
	  print('CUDA sources: compiled, warnings as errors, for $(TEST_CUDA_ARCHITECTURES)' if i['cuda_built'] \
	  else 'CUDA sources: NOT COMPILED (no working nvcc here, or CELLPOST_CUDA=OFF)'); \
	  print('GPU tests:', 'run' if i['cuda_usable'] else 'SKIPPED, ' + i['cuda_reason'])"

# Tests run from inside $(VENV), so that what is installed is imported and not the checkout.

# ---- what a person runs ----------------------------------------------------------------------------------------
demo: $(VENV)/demo.done
	$(VENV)/bin/cellpost demo

test: lint cpptest doctest pytest

lint: $(VENV)/test.done
	ruff check .
	ruff format --check .
	clang-format --dry-run -Werror $(CPP_FILES)
	mypy --strict cellpost
	cd $(VENV) && bin/stubtest cellpost._core --allowlist $(CURDIR)/tests/stubtest_allow.txt

cpptest: $(VENV)/packages.done
	for preset in asan tsan; do \
	  cmake --preset $$preset && cmake --build --preset $$preset && ctest --preset $$preset || exit 1; done

doctest: $(VENV)/test.done
	cd $(VENV) && bin/pytest -c $(CURDIR)/pyproject.toml --doctest-modules --pyargs cellpost

pytest: $(VENV)/test.done
	cd $(VENV) && bin/pytest $(CURDIR)/tests $(PYTEST_FLAGS)

test-slide: $(VENV)/test.done
	cd $(VENV) && bin/pytest $(CURDIR)/tests -k slide --full $(PYTEST_FLAGS)

bench: $(VENV)/test.done
	cd $(VENV) && bin/pytest $(CURDIR)/bench --benchmark-only $(PYTEST_FLAGS)

# The module is built beside the Python files, for the local GPU; the benchmark's answers are asserted, too.
ifeq ($(SETUP),1)
gpu: $(VENV)/packages.done
endif
gpu: export PYTHONPATH := $(CURDIR)
gpu:
	cmake --preset cuda -DCMAKE_CUDA_ARCHITECTURES=native -DPython_EXECUTABLE=$$(command -v $(PY))
	cmake --build --preset cuda
	$(PY) -c "import cellpost, sys; i = cellpost.info(); print(i); sys.exit(not i['cuda_usable'])"
	$(PY) -m pytest tests -m gpu $(PYTEST_FLAGS)
	for tool in memcheck racecheck synccheck; do \
	  compute-sanitizer --tool $$tool --error-exitcode 1 $(PY) tests/cuda/sanitize.py; done
	$(PY) -m pytest bench --benchmark-only -k "flows and cuda" --save-results $(PYTEST_FLAGS)

clean:
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks cellpost/_core*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
