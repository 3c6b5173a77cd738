# Every task of this repository; `make` alone lists them. The environment lives in .venv and is made by the tasks themselves.
#
#   PYTHON=python3.12 make lab     use this Python (3.11 to 3.14) instead of the first good one
#   make test WORKERS=4            more test processes (default 2)
#   make lab TORCH_BUILD=any       take whatever PyTorch pip chooses
#   make lab WHEELHOUSE=folder     install from a folder that `make wheelhouse` filled, without a network
#
# A machine without nvidia-smi gets the CPU build of PyTorch, whatever pip would choose by itself.

VENV := .venv
BIN := $(VENV)/bin
PYTHON_CHOICES := $(if $(PYTHON),$(PYTHON),python3 python3.12 python3.11 python3.13 python3.14)
WORKERS ?= 2

NVIDIA := $(shell command -v nvidia-smi 2>/dev/null)
CONSTRAINTS := $(if $(NVIDIA),,--constraint constraints-cpu.txt)
TORCH := $(shell sed -n 's/^torch==//p' constraints-cpu.txt)
TORCH_BUILD := $(if $(NVIDIA),any,$(if $(filter Linux,$(shell uname -s)),cpu,any))

PIP := $(BIN)/python -m pip --disable-pip-version-check
OFFLINE := $(if $(WHEELHOUSE),--no-index --find-links $(abspath $(WHEELHOUSE)))
INSTALL := $(PIP) install --retries 10 --timeout 180 $(OFFLINE)
LAB_EXTRAS := all
DEV_EXTRAS := all,dev

export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help lab test check soak lessons env wheelhouse clean

help:  ## list these tasks
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1~\2/p' Makefile | awk -F'~' '{printf "%-18s%s\n", $$1, $$2}'

lab: $(VENV)/.ready-lab  ## set everything up and open the course in JupyterLab
	@$(BIN)/lmcourse lab

test: $(VENV)/.ready-dev  ## set everything up and run every test, lessons included (about 10 minutes)
	$(BIN)/python -m pytest tests notebooks --nbval --numprocesses $(WORKERS) --dist loadfile --durations 10

check: $(VENV)/.ready-dev  ## everything that must hold before a commit: style, types, floors, lessons, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m lmcourse.authoring check
	$(BIN)/python -m pytest tests notebooks --nbval --numprocesses $(WORKERS) --dist loadfile

soak: $(VENV)/.ready-dev  ## the long workloads (at most 35 minutes)
	$(BIN)/python -m pytest tests -m soak --numprocesses $(WORKERS) --dist load --durations 10

lessons: $(VENV)/.ready-dev  ## build and run all lessons from notebooks/source
	$(BIN)/python -m lmcourse.authoring build

env: $(VENV)/.ready-dev  ## set up .venv for tests and authors, and nothing else

wheelhouse: $(BIN)/python  ## fetch every package of the course once, into wheelhouse/, for a class without a network
	@mkdir -p wheelhouse
	$(if $(filter cpu,$(TORCH_BUILD)),@$(MAKE) --no-print-directory .cpu-torch-wheel)
	@$(PIP) download --quiet --dest wheelhouse --find-links wheelhouse $(CONSTRAINTS) "setuptools>=77,<82" ".[$(LAB_EXTRAS)]"
	@rm -f wheelhouse/lmcourse-*
	@echo "$$(ls wheelhouse | wc -l) packages, $$(du -sh wheelhouse | cut -f1), for $$($(BIN)/python --version) on this kind of machine."
	@echo "Copy the course's folder with wheelhouse/ in it; there: make lab WHEELHOUSE=wheelhouse"

clean:  ## remove .venv and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ---------------------------------------------------------------------------------------------------

# Called as $(call install,EXTRAS). The CPU build of torch goes in first and alone, so that nothing can bring in another.
define install
	$(if $(filter cpu,$(TORCH_BUILD)),@$(MAKE) --no-print-directory .cpu-torch)
	@echo "Installing lmcourse[$(1)] into $(VENV); the first time this takes a few minutes."
	@$(INSTALL) $(CONSTRAINTS) --editable ".[$(1)]" || { \
	    echo >&2 "pip could not install lmcourse[$(1)]; its own message is above."; \
	    echo >&2 "  next: check the network and run the same command again; what was fetched already is kept"; \
	    exit 1; }
	@touch $@
endef

$(VENV)/.ready-lab: pyproject.toml constraints-cpu.txt | $(BIN)/python
	$(call install,$(LAB_EXTRAS))

$(VENV)/.ready-dev: pyproject.toml constraints-cpu.txt | $(BIN)/python
	$(call install,$(DEV_EXTRAS))
	@touch $(VENV)/.ready-lab

$(BIN)/python:
	@for python in $(PYTHON_CHOICES); do \
	    "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null \
	    || continue; \
	    echo "Making $(VENV) with $$("$$python" --version)"; \
	    rm -rf $(VENV); \
	    "$$python" -m venv $(VENV) && exit 0; \
	    rm -rf $(VENV); \
	done; \
	echo >&2 "No usable Python found."; \
	echo >&2 "  expected: Python 3.11 to 3.14 with its venv module"; \
	echo >&2 "  tried:    $(PYTHON_CHOICES)"; \
	echo >&2 "  next:     Debian, Ubuntu: sudo apt-get install python3 python3-venv · macOS: brew install python@3.12"; \
	echo >&2 "            conda: conda create -n py312 python=3.12 && conda activate py312 · or name one: PYTHON=/path/to/python3.12 make lab"; \
	exit 1

# For the wheelhouse the CPU build comes from pip's indexes, or from the index that uv names.
.PHONY: .cpu-torch-wheel
.cpu-torch-wheel:
	@ls wheelhouse/torch-$(TORCH)+cpu-* >/dev/null 2>&1 \
	|| $(PIP) download --quiet --no-deps --dest wheelhouse "torch==$(TORCH)+cpu" 2>/dev/null \
	|| { $(INSTALL) --quiet uv && index=$$(echo "torch==$(TORCH)" | $(BIN)/uv pip compile - --quiet --no-deps --torch-backend cpu \
	     --emit-index-annotation --python $(BIN)/python | sed -n 's/.*# from //p') && [ -n "$$index" ] \
	     && $(PIP) download --quiet --no-deps --dest wheelhouse --index-url "$$index" "torch==$(TORCH)"; } \
	|| { echo >&2 "The CPU build of PyTorch $(TORCH) could not be had for the wheelhouse."; \
	     echo >&2 "  next: check the network and run this again; or take pip's choice: make wheelhouse TORCH_BUILD=any"; \
	     exit 1; }

# pip takes the CPU build where its indexes have it; otherwise uv, which knows PyTorch's own index, is asked for it.
.PHONY: .cpu-torch
.cpu-torch:
	@$(BIN)/python -c 'from importlib.metadata import version; assert version("torch").endswith("+cpu")' 2>/dev/null \
	|| $(INSTALL) --no-deps "torch==$(TORCH)+cpu" 2>/dev/null \
	|| { $(INSTALL) --quiet uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --torch-backend cpu "torch==$(TORCH)"; } \
	|| { echo >&2 "The CPU build of PyTorch $(TORCH) could not be had."; \
	     echo >&2 "  expected: torch $(TORCH)+cpu from one of pip's indexes, or from PyTorch's own index through uv"; \
	     echo >&2 "  why:      without nvidia-smi the default build would bring several GB of CUDA libraries that cannot be used here"; \
	     echo >&2 "  next:     check the network and run this again; or take pip's choice: make lab TORCH_BUILD=any"; \
	     exit 1; }
