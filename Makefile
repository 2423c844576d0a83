# Needs only make, Python 3.10 or newer with venv, and PyPI. `make help` lists what there is to make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST := build/oldest
PACKED := build/packed
LOWEST := build/lowest
LOWEST_TESTS := tests/attribution tests/study/test_store.py tests/test_cli_mistakes.py tests/view
OLDEST_TESTS := tests/model/test_transformers_versions.py tests/model/test_own_attention.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv with Mnemoscope and its tools (PYTHON=... chooses the Python)

# The stamp lies in the virtual environment, so one that is absent, made by hand or half installed is seen.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "Mnemoscope needs Python 3.10 or newer: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV): minutes the first time"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: demo
demo: setup ## Show what remembers that the capital of Japan is Tokyo, in the demo model
	$(BIN)/mnemoscope attribute "The capital of Japan is the city of" --target " Tokyo" --top 10

.PHONY: test
test: lint test-oldest test-packed ## Run everything CI runs: format, lint, types and all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal

.PHONY: test-all
test-all: test ## Run everything CI runs, then the oracle on every family
	OMP_NUM_THREADS=1 $(BIN)/pytest -m nightly --numprocesses auto --dist worksteal

.PHONY: test-oldest
test-oldest: $(OLDEST)/.installed ## Prove the families with the oldest transformers that is supported
	PYTHONPATH=$(OLDEST) OMP_NUM_THREADS=1 $(BIN)/pytest $(OLDEST_TESTS)

# It lies beside .venv and not in it, and brings what else must be older.
$(OLDEST)/.installed: $(STAMP)
	@rm -rf $(OLDEST)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --target $(OLDEST) \
		"transformers==$$(sed -n 's/.*"transformers>=\(.*\)".*/\1/p' pyproject.toml).0"
	@touch $@

.PHONY: test-lowest
test-lowest: $(LOWEST)/.installed ## Run some tests and the demo with the lowest versions that pyproject.toml names
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m "not slow" $(LOWEST_TESTS)
	$(LOWEST)/bin/mnemoscope attribute "The capital of Japan is the city of" --target " Tokyo" --top 10

# pip installs torch, as it takes a CPU build where one is at hand; uv alone resolves to the lowest versions.
$(LOWEST)/.installed: $(STAMP)
	@rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints.txt torch uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		--editable '.[peft,study,web]' "pytest>=8.2" "pytest-timeout>=2.3" \
		"hypothesis>=6.100" "httpx>=0.28" "polars>=1.0"
	@touch $@

.PHONY: test-packed
test-packed: $(PACKED)/.installed ## Open models that torchao and bitsandbytes packed in 8 or 4 bits
	PYTHONPATH=$(PACKED) OMP_NUM_THREADS=1 $(BIN)/pytest tests/model/test_packed.py

# Both need nothing that .venv does not have, and are kept out of it: see the tests.
$(PACKED)/.installed: $(STAMP)
	@rm -rf $(PACKED)
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --constraint constraints.txt \
		--target $(PACKED) torchao bitsandbytes
	@touch $@

.PHONY: lint
lint: setup ## Check format, lint and types without changing anything
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright

.PHONY: format
format: setup ## Format the code and mend what ruff can mend safely
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

.PHONY: benchmark
benchmark: setup ## Measure what is claimed about speed
	$(BIN)/python benchmarks/attribute.py

.PHONY: clean
clean: ## Remove .venv and everything that make or the tools made here
	rm -rf $(VENV) build dist .coverage .hypothesis .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
