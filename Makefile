# All targets need only `make` and Python 3.11 or newer. Each target makes the environment that it needs.

PYTHON ?= python3
JOBS ?= 3
ARGS ?=
SEEDS ?= 20
FULL ?=

# This path is relative, so that the path of the clone may contain spaces.
VENV_PYTHON := .venv/bin/python

# Tests get only these variables of the caller's environment, and PATH and HOME.
PASSED_ON := CI FULL TESTS_DAY TMPDIR CRABNET_FUZZ_SECONDS CRABNET_FUZZ_ROUND CRABNET_FLOOD_SECONDS \
	CRABNET_HYPOTHESIS_PROFILE
BARE := env -i PATH="$$PATH" HOME="$$HOME" LANG=C.UTF-8 $(foreach name,$(PASSED_ON),$(if $($(name)),$(name)="$($(name))"))
PYTEST := $(BARE) $(VENV_PYTHON) -m pytest -n $(JOBS) --dist worksteal

unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help env demo test deep sim coverage check format bench lock build try sbom clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: PYTHON=$(PYTHON) (interpreter), JOBS=$(JOBS) (test processes), SEEDS=$(SEEDS), FULL=1, ARGS (passed on)"

env: ## Make or refresh .venv (the other targets do this too)
	@sh scripts/env.sh "$(PYTHON)"

demo: env ## Run a network of real nodes on this machine, step by step
	@$(VENV_PYTHON) -m scripts.demo $(ARGS)

test: env ## Run the tests; as root, also run those that depend on the user as an ordinary user
	$(PYTEST) -m "not deep" $(ARGS)
	$(BARE) $(VENV_PYTHON) scripts/ordinary_user.py -n $(JOBS) --dist worksteal -m "by_user and not deep" $(ARGS)

deep: env ## Run the large enumerations, and today's part of the long random tests (FULL=1: all of them)
	$(PYTEST) -m deep --timeout 1200 $(ARGS)

sim: env ## Simulate SEEDS networks with faults and liars (ARGS=--report: traffic; see docs/OPERATIONS.md for replay)
	$(VENV_PYTHON) -m tests.sim --seeds $(SEEDS) --jobs $(JOBS) $(ARGS)

coverage: env ## Run the tests and report branch coverage, including child processes
	$(VENV_PYTHON) -m coverage erase
	$(BARE) $(VENV_PYTHON) -m coverage run -m pytest -n $(JOBS) --dist worksteal -m "not deep" $(ARGS)
	$(VENV_PYTHON) -m coverage combine --quiet
	$(VENV_PYTHON) -m coverage report

check: env ## Check format, lint, types, layers, lock and documents
	$(VENV_PYTHON) -m ruff format --check
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m mypy
	.venv/bin/lint-imports
	$(VENV_PYTHON) scripts/lock.py --check
	$(VENV_PYTHON) scripts/check_docs.py
	$(VENV_PYTHON) scripts/write_reference.py --check

format: env ## Format the code and apply safe fixes
	$(VENV_PYTHON) -m ruff check --fix-only
	$(VENV_PYTHON) -m ruff format

bench: env ## Measure throughput and command start
	$(VENV_PYTHON) -m bench $(ARGS)

lock: env ## Lock the dependencies again (ARGS=--upgrade takes newer versions)
	$(VENV_PYTHON) scripts/lock.py $(ARGS)

build: env ## Build wheel and sdist into dist/
	$(VENV_PYTHON) -m hatchling build --clean -d dist $(ARGS)

try: env ## Build wheel and sdist, and install and use each in a bare environment
	$(VENV_PYTHON) -m scripts.try_wheel

sbom: env ## Write the bill of materials of what a node runs with into dist/ (CycloneDX)
	$(VENV_PYTHON) -m scripts.sbom dist/crabnet-node.cdx.json

clean: ## Remove everything that make has made, including .venv
	rm -rf .venv .venv.lock .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf build dist htmlcov .coverage .coverage.* .demo bench/results tests/interop/js/node_modules
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
