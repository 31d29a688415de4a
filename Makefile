# GNU make. `make` by itself lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The Python that .venv is made with; without it the first fitting one of python3, 3.13, 3.12, 3.11.
PYTHON ?=
# More arguments for pytest, as in: make test ARGS="-k tape"
ARGS ?=
# How many processes run the tests: they also wait, for clocks and for each other.
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))
# What `make run` records, and for how long.
TICKERS ?=
FOR ?= 10m

# The tests start Python a hundred times; without bytecode each start would compile all of ours, and
# each worker all tests.
unexport PYTHONDONTWRITEBYTECODE

PY := .venv/bin/python
STAMP := .venv/.installed

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ------------------------------------------------------------------------------------- set up

.PHONY: setup
setup: $(STAMP) ## make .venv and install everything into it (again only when the pins changed)

# Runs in `python -c`: says why an interpreter does not fit, or nothing.
define FITS
import sys
if sys.version_info < (3, 11):
    sys.exit("is Python %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("has no venv and ensurepip (Debian and Ubuntu: apt install python%d.%d-venv)" % sys.version_info[:2])
endef
export FITS

$(STAMP): pyproject.toml constraints.txt
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
	    python= why=; \
	    for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	        command -v "$$candidate" >/dev/null || { why+="; $$candidate is not there"; continue; }; \
	        if reason=$$("$$candidate" -c "$$FITS" 2>&1 </dev/null); then python=$$candidate; break; fi; \
	        why+="; $$candidate $${reason##*$$'\n'}"; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "stocktrace needs Python 3.11 or newer with venv and pip: install one, or name it as in make setup PYTHON=/path/to/python3.12 ($${why#; })." >&2; \
	        exit 2; \
	    fi; \
	    echo "Making .venv with $$("$$python" --version) …"; \
	    "$$python" -m venv --clear .venv </dev/null; \
	fi
	@echo "Installing stocktrace and its tools into .venv …"
	@$(PY) -m pip --disable-pip-version-check --no-input install --quiet \
	    -e '.[dev]' -c constraints.txt </dev/null
	@touch $@

.PHONY: constraints
constraints: ## resolve all versions again and write constraints.txt (needs Python 3.11, 3.12 and 3.13)
	@$(or $(PYTHON),python3) .ci/constraints

# -------------------------------------------------------------------------------------- check

# tests/order.py says which of them runs what.
PYTEST := $(PY) -m pytest -n $(WORKERS)

.PHONY: test
test: $(STAMP) ## run the tests; fails under 95 % coverage: ARGS= WORKERS=
	@$(PYTEST) --cov --cov-report=term-missing:skip-covered $(ARGS)

.PHONY: test-slow
test-slow: $(STAMP) ## the long tests: servers, workers, all cases of what is sampled, many examples
	@$(PYTEST) -m "slow or hypothesis" --hypothesis-profile=many $(ARGS)

.PHONY: lint
lint: $(STAMP) ## ruff: rules and format
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check

.PHONY: types
types: $(STAMP) ## mypy, strict
	@$(PY) -m mypy

.PHONY: check
check: lint types test ## all three

.PHONY: soak
soak: $(STAMP) ## kill captures and recoveries at random, account for every trade: KILLS= MINUTES= SEED= TLS=1
	@$(PY) -m tests.soak --kills $(or $(KILLS),200) --minutes $(or $(MINUTES),8) --seed $(or $(SEED),1) $(if $(TLS),--tls)

.PHONY: crash-states
crash-states: $(STAMP) ## cut the power at random, recover, account for every trade: STATES= SEED=
	@$(PY) -m tests.crash_states --states $(or $(STATES),1000) --seed $(or $(SEED),1)

.PHONY: autobahn
autobahn: $(STAMP) ## the Autobahn suite: PYTHON27=/path/to/a/python2.7 that has autobahntestsuite; TLS=1
	@$(PY) -m tests.autobahn $(PYTHON27) $(if $(TLS),--tls)

.PHONY: format
format: $(STAMP) ## let ruff fix what it can
	@$(PY) -m ruff check --fix
	@$(PY) -m ruff format

# ---------------------------------------------------------------------------------------- run

.PHONY: demo
demo: $(STAMP) ## record the simulator: no key, no network
	@$(PY) -m flows.demo

.PHONY: run
ifeq ($(strip $(TICKERS)),)
run: ## record under Prefect: make run TICKERS="AAPL MSFT" FOR=10m
	@echo 'Name at least one ticker, as in: make run TICKERS="AAPL MSFT" FOR=10m' >&2
	@exit 2
else
run: $(STAMP)
	@$(PY) -m flows.capture $(TICKERS) --for $(FOR)
endif

# -------------------------------------------------------------------------------------- bench

.PHONY: bench
bench: bench-capture bench-convert bench-scale bench-size bench-read bench-archive ## compare with others, in .bench (40 min)

.PHONY: bench-capture
bench-capture: $(STAMP) ## CPU per trade, compared with other clients: ARGS="--rounds 5"
	@$(PY) -m benchmarks.capture $(ARGS)

.PHONY: bench-sustained
bench-sustained: $(STAMP) ## highest trades/s, compared with other clients; ARGS="--tape FILE"
	@$(PY) -m benchmarks.sustained $(ARGS)

.PHONY: bench-convert
bench-convert: $(STAMP) ## CPU per row from CSV to Parquet, compared with pandas
	@$(PY) -m benchmarks.convert $(ARGS)

.PHONY: bench-size
bench-size: $(STAMP) ## bytes per trade, compared with pandas, DBN and pcodec; ARGS="--tape FILE"
	@$(PY) -m benchmarks.size $(ARGS)

.PHONY: bench-read
bench-read: $(STAMP) ## read an hour of one ticker out of a day of four
	@$(PY) -m benchmarks.read $(ARGS)

.PHONY: bench-archive
bench-archive: $(STAMP) ## a year, and 5,000 tickers, compared with DuckDB and others; ARGS="--rounds 7"
	@$(PY) -m benchmarks.archive $(ARGS)

.PHONY: bench-months
bench-months: $(STAMP) ## thirty days of windows: files, reports, memory; ARGS="--daily"
	@$(PY) -m benchmarks.months $(ARGS)

.PHONY: bench-scale
bench-scale: $(STAMP) ## peak, idle, 5,000 tickers, latency, pauses; ARGS="memory --seconds 1800"
	@$(PY) -m benchmarks.scale $(ARGS)

# -------------------------------------------------------------------------------------- build

.PHONY: build
build: $(STAMP) ## wheel and sdist, into dist/
	@rm -rf dist
	@$(PY) -m build --outdir dist </dev/null

.PHONY: docs
docs: $(STAMP) ## the documentation as a site, into .site; a broken link fails
	@.venv/bin/mkdocs build

.PHONY: clean
clean: ## remove builds and caches; .venv and data stay
	@rm -rf build dist .site htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./.venv -prune -o -path ./.git -prune -o -path ./data -prune \
	    -o -name __pycache__ -type d -print0 | xargs -0 --no-run-if-empty rm -rf
