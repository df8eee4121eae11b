# Every target does its own set-up; .venv is built from the pinned versions in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install up demo test check format bench clean

help: ## show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "docworker needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP) ## install docworker and its tools into .venv

up: $(STAMP) ## run the local stack and every process in the foreground
	@exec $(BIN)/docworker up

demo: $(STAMP) ## start everything, process the samples, show the result
	@$(BIN)/docworker demo

test: $(STAMP) ## run the whole test suite
	@$(BIN)/python -m pytest

check: $(STAMP) ## lint, types, layers, schema drift
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/docworker stack exec -- $(BIN)/alembic check

format: $(STAMP) ## rewrite the code in the project's format
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

bench: $(STAMP) ## compare with the usual way and print the table
	@$(BIN)/python -m benchmarks

clean: ## remove the local stack's data, caches and the virtual environment
	rm -rf .docworker .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
