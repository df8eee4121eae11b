# Every target does its own set-up; .venv is built from the pinned versions in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
# A virtual environment works only where it was made, and with the Python it was made with.
HERE := $(CURDIR)/$(VENV) $(shell readlink -f $(BIN)/python)

.DEFAULT_GOAL := help
.PHONY: help install up demo test system soak check audit docs format metrics settings bench clean

help: ## show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "PYTHON=/path/to/python3.11 chooses the Python that .venv is made with."

ifneq ($(shell cat $(STAMP) 2>/dev/null),$(HERE))
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "docworker needs Python 3.11 or newer: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@grep -qs ' $(CURDIR)/$(VENV)$$' $(VENV)/pyvenv.cfg && $(BIN)/python -m pip --version >/dev/null 2>&1 \
		|| { echo "making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@echo "$(CURDIR)/$(VENV) $$(readlink -f $(BIN)/python)" > $@

$(BENCH_STAMP): $(STAMP)
	@echo "installing other queues into $(VENV)"
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'; \
		then touch $@; else echo "other queues cannot be installed: they are left out" >&2; fi

install: $(STAMP) ## install docworker and its tools into .venv

up: $(STAMP) ## run the local stack and every process in the foreground
	@exec $(BIN)/docworker up

demo: $(STAMP) ## start everything, process the samples, show the result
	@$(BIN)/docworker demo

test: $(STAMP) ## run the tests that share servers
	@$(BIN)/python -m pytest -m "not system and not soak and not benchmark"

system: $(STAMP) ## run the tests of commands, and those that start, kill and cut off processes and servers
	@$(BIN)/python -m pytest -m "system and not soak and not benchmark"

soak: $(STAMP) ## run the tests that take minutes: everything fails, with further seeds
	@$(BIN)/python -m pytest -m soak --numprocesses=2

check: $(STAMP) ## lint, types, layers, patterns, licences, locks of migrations, schema drift
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.support.patterns
	@$(BIN)/python -m tests.support.licences
	@$(BIN)/python -m tests.support.locking
	@$(BIN)/docworker stack exec -- $(BIN)/alembic check

audit: $(STAMP) ## ask OSV whether what is pinned is known to be vulnerable
	@$(BIN)/python -m tests.support.audit

docs: $(STAMP) ## build the documentation as a site, in site/
	@$(BIN)/zensical build --strict

format: $(STAMP) ## rewrite the code in the project's format
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

metrics: $(STAMP) ## write docs/metrics.md anew, from the code
	@$(BIN)/python -m tests.support.metrics_page

settings: $(STAMP) ## write docs/settings.md anew, from the code
	@$(BIN)/python -m tests.support.settings_page

bench: $(BENCH_STAMP) ## compare with the usual way and other queues, and print the table
	@$(BIN)/python -m benchmarks

clean: ## remove the local stack's data, caches and the virtual environment
	@test ! -L .docworker/servers || rm -rf "$$(readlink .docworker/servers)"
	rm -rf site .cache .docworker .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
