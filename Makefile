# Everything here works on a machine with Python 3.11+, make and git. `make` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ADVANCE ?= 0
CUSTOMERS ?= 5000
BENCH_CUSTOMERS ?= 1000000
BENCH_PARTS ?= model predictions delivery
KEEP ?= 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo up test test-fast test-nights test-deployment bench chaos lint audit dbt-parse dbt-docs docs \
	format lock secrets clean stop

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.runtime ## Create .venv with the locked packages and the kundenkreis command

demo: $(VENV)/.runtime ## Run a night on a sandbox shop: vendor APIs to email tools (ADVANCE=1: the next night)
	@$(BIN)/kundenkreis demo --customers $(CUSTOMERS) --advance $(ADVANCE)

up: $(VENV)/.runtime ## Start Airflow with its UI; prints the address and the login
	@$(BIN)/kundenkreis up

test: $(VENV)/.development ## Run the tests, with a real PostgreSQL and the whole DAG
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not trouble"

test-nights: $(VENV)/.development ## Run nights that are killed, fail or erase somebody, and the nights after them
	$(BIN)/python -m pytest -n 3 --dist loadfile -m trouble tests/night

test-fast: $(VENV)/.development ## Run the unit tests only
	$(BIN)/python -m pytest tests/unit

test-deployment: $(VENV)/.development ## Start every service of docker-compose.yml as a process, and run nights on them
	KUNDENKREIS_TEST_DEPLOYMENT=1 $(BIN)/python -m pytest tests/deployment

bench: $(VENV)/.runtime ## Measure speed and memory beside floors and peers (an hour; BENCH_CUSTOMERS=100000: less)
	@PYTHONPATH=plugins:. $(BIN)/python -m benchmarks --customers $(BENCH_CUSTOMERS) \
		$(if $(filter 1,$(KEEP)),--keep) $(BENCH_PARTS)

chaos: $(VENV)/.development ## Kill deliveries at 300 random points and check what is left; writes docs/chaos.md
	@PYTHONPATH=plugins:. $(BIN)/python -m tests.chaos

lint: $(VENV)/.development ## Check style, types, SQL and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint --processes 2 dbt_project/models dbt_project/tests
	$(BIN)/codespell
	$(BIN)/hadolint Dockerfile

audit: $(VENV)/.development ## Check the locked packages against known vulnerabilities
	@$(BIN)/python deploy/audit.py

dbt-parse: $(VENV)/.runtime ## Check the dbt project; a deprecation warning is an error
	DBT_SEND_ANONYMOUS_USAGE_STATS=false $(BIN)/dbt parse --project-dir dbt_project --profiles-dir dbt_project \
		--target-path ../.kundenkreis/dbt/target_parse --log-path .kundenkreis/dbt/logs --no-partial-parse \
		--warn-error-options '{"error": ["Deprecations"]}' --vars '{as_of_date: "2026-01-31", marts_schema: marts_blue}'

dbt-docs: $(VENV)/.runtime ## Write dbt's pages (lineage, columns, tests) over the warehouse; a warning is an error
	@$(BIN)/kundenkreis dbt --warn-error-options '{"error": "all"}' docs generate --static
	@ls -t .kundenkreis/dbt/*/static_index.html | head -1

docs: $(VENV)/.runtime ## Write the generated pages of docs/ and the schemas of config/ anew
	@$(BIN)/python -m kundenkreis.documentation

format: $(VENV)/.development ## Put Python and SQL into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/sqlfluff fix --processes 2 dbt_project/models dbt_project/tests

lock: $(VENV)/.development ## Compile requirements*.txt anew from requirements*.in
	$(BIN)/uv pip compile --universal --python-version 3.11 --quiet requirements.in -o requirements.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --quiet requirements-deployment.in -o requirements-deployment.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --quiet requirements-dev.in -o requirements-dev.txt

secrets: ## Write the random secrets that docker-compose.yml asks for into .env; keeps what is there
	@$(PYTHON) deploy/create_secrets.py

stop: ## Stop the embedded warehouse and the sandbox
	-@$(BIN)/kundenkreis sandbox stop
	-@$(BIN)/kundenkreis warehouse stop

clean: stop ## Stop everything and delete the environment and all local data
	rm -rf $(VENV) .kundenkreis

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@echo "Creating $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet uv
	@touch $@

# Compiling once while installing saves every later start-up from doing it.
$(VENV)/.runtime: $(VENV)/.uv requirements.txt pyproject.toml
	@echo "Installing the locked packages; the first time takes a minute or two …"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode -r requirements.txt
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime requirements-deployment.txt requirements-dev.txt
	@echo "Installing what the tests need …"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode \
		-r requirements-deployment.txt -r requirements-dev.txt
	@touch $@
