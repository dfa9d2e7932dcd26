# Every target works from a fresh clone: those that need the environment make it first.
#
#   make setup PYTHON=python3.12          another interpreter (3.11 or newer)
#   make test ARGS="tests/unit -k bucket" options for the command behind demo and the tests

PYTHON ?= python3
# Not heic and jxl: their packages contain code under the GPL (docs/preparation.md).
EXTRAS := dedup,demo,dev,mlflow,optimizers,ray,s3,tagger,tensorboard,trackio,wandb-view
WORKERS ?= 2
ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.setup-stamp
PIP := $(RUN) -m pip --disable-pip-version-check --no-input

# The pyright wheel asks the network for a newer release at every start unless told not to.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help setup shell demo test test-all test-gpu browser check lint format-check types imports spelling gates bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-10s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## make .venv and install the project with pinned versions

# torch goes first and alone: a build of the pinned version that is already there, whichever it is, then stays.
$(STAMP): pyproject.toml constraints.txt | $(RUN)
	@echo "setup: installing into $(VENV) (minutes the first time, seconds after)"
	$(PIP) install -qq -c constraints.txt torch
	$(PIP) install -qq -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "setup: needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not found)." \
	       "Name another: make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "setup: $(PYTHON) cannot make a virtual environment (see above)." \
	       "On Debian and Ubuntu install python3-venv, then run make setup again" >&2; exit 1; }

shell: setup  ## open a shell that has the environment; exit leaves it
	@echo "shell: python, accelerate and finetune are those of $(VENV); exit leaves"
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" "$${SHELL:-/bin/sh}" || true

demo: setup  ## adapt the small model that ships with the project to a style and show the result
	$(VENV)/bin/finetune demo $(ARGS)

# Tests are many small torch programs: one thread each, WORKERS at a time (WORKERS=0: all in one process). More threads
# than free cores can slow torch down tenfold.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist worksteal

test: setup  ## the tests of every day: each area, without what is slow or needs a GPU
	$(PYTEST) -m "not gpu and not slow" $(ARGS)

test-all: setup  ## every test that needs no GPU: whole families, kills, Ray, the demo, README's blocks
	$(PYTEST) -m "not gpu" $(ARGS)

test-gpu: setup  ## the tests that need a CUDA device
	$(RUN) -m pytest -m gpu $(ARGS)

browser:  ## install Chromium on Debian, which the tests of pages need (as root)
	apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium

check: lint format-check types imports spelling gates  ## all static checks (add -k to see every failure)

lint: setup
	$(RUN) -m ruff check .

format-check: setup
	$(RUN) -m ruff format --check .

types: setup
	$(RUN) -m pyright

imports: setup
	$(VENV)/bin/lint-imports

spelling: setup
	$(VENV)/bin/codespell

gates:
	bash .ci/gates.sh
	$(PYTHON) .ci/phrases.py
	$(PYTHON) .ci/docstrings.py

bench:  ## list the benchmarks
	@for script in benchmarks/*.py; do \
	  [ -e "$$script" ] || { echo "no benchmarks yet"; break; }; \
	  printf '  %s %-28s %s\n' "$(RUN)" "$$script" "$$(sed -n '1s/"""//gp' "$$script")"; \
	done

clean:  ## remove caches and build products (delete .venv by hand to start over)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
