SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help run test check soak bench test-cuda bench-cuda docs ui clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Everything a checkout needs, at the exact versions of constraints.txt.
.venv/made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

run: .venv/made  ## Train the default experiment, offline
	$(BIN)/lmft

# In the order of files: xdist would leave those with few but long tests to the end.
test: .venv/made  ## Run the tests: no network, no GPU
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/made  ## Lint, format, type-check and build the documentation; no file is changed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs: .venv/made  ## Show the documentation site at http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

soak: .venv/made  ## Run the slow proofs as well
	$(BIN)/python -m pytest -m 'soak or not soak'

bench: .venv/made  ## Measure the figures of the README: two hours (BENCH=quick: half an hour)
	$(BIN)/python -m benchmarks $(if $(filter quick,$(BENCH)),--quick)

# On a machine with torch for CUDA, perhaps without a network: with its own Python, and what
# `python -m benchmarks.pack` packed, if it is here.
CUDA = LMFT_SHARED=$${LMFT_SHARED:-$(CURDIR)/shared} PYTHONPATH=$(CURDIR):$(CURDIR)/site HF_HUB_OFFLINE=1 \
	TRITON_INTERPRET=0 PYTHONUNBUFFERED=1 $(PYTHON)
test-cuda:  ## Run the tests of tests/cuda on an NVIDIA GPU: three minutes
	$(CUDA) -m pytest -p no:cacheprovider tests/cuda

TASKS ?=
bench-cuda:  ## Measure the figures of docs/gpu.md on an NVIDIA GPU: six minutes (TASKS="s1 s2": these)
	$(CUDA) -m benchmarks.cuda $(TASKS)

STORE ?= sqlite:///$(CURDIR)/mlflow.db
PORT ?= 5000
ui: .venv/made  ## Open the MLflow page on 127.0.0.1:5000 (PORT=), on ./mlflow.db (STORE=sqlite:////path/mlflow.db)
	$(BIN)/lmft ui tracker.uri=$(STORE) port=$(PORT)

clean:  ## Remove the environment and what tools leave behind; runs stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .site dist
	find . -name __pycache__ -prune -exec rm -rf {} +
