# The two commands of the README, and what a developer runs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest
# Processes that share the tests.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test exhaustive fast test-lowest check fix

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP)  ## a virtual environment in .venv with everything pinned

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# By name and version first: where a CPU build of torch is offered, a resolver that is asked for it directly takes it.
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: setup  ## tune the tiny base on handwritten digits: no network, no GPU, no account
	$(BIN)/python -m finetune recipe=quickstart overwrite=true

test: setup  ## the tests that need neither a GPU nor the Hub
	$(PYTEST) -m "not gpu and not network and not exhaustive"

exhaustive: setup  ## every method killed at every moment, published and merged, of which `test` has a part: ten minutes or more
	$(PYTEST) -m exhaustive

fast: setup  ## the tests that take seconds each
	$(PYTEST) -m "not slow and not gpu and not network"

test-lowest:  ## the fast tests in .venv-lowest, on the lowest versions allowed (10 minutes)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "The lowest Python is 3.11: make PYTHON=python3.11 $@"; exit 1; }
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints-lowest.txt)"
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[demo,onnx,supervision,tensorboard,trackio,wandb]' hypothesis ipykernel jiwer nbclient nbformat pytest
	$(LOWEST)/bin/python -m pytest -m "not slow and not gpu and not network and not parity"

check: setup  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: setup  ## format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
