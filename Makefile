# Needs only make, Python 3.10 or newer with venv, and PyPI. `make help` lists what there is to make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two steps: the demo needs only the first.
RUNTIME := $(VENV)/.runtime
STAMP := $(VENV)/.installed
QUIETLY := .ci/quietly
OLDEST := build/oldest
PACKED := build/packed
LOWEST := build/lowest
SITE := build/site-tools
# Two more than there are cores: tests wait for processes, the browser and Ray.
WORKERS = $$($(BIN)/python -c 'import os; print((os.cpu_count() or 1) + 2)')
COMPILED := $(VENV)/.compiled
LOWEST_TESTS := tests/attribution tests/study/test_store.py tests/cli/test_mistakes.py tests/report
# Of the families with attention of their own, those whose code is another one in newer transformers.
OLDEST_TESTS := tests/model/families/test_transformers_versions.py tests/model/test_custom_attention.py \
	-k "transformers_versions or gptj or codegen"

# uv compiles no module when it installs it, so the first process that imports one must be let write it; else each
# process compiles torch and transformers anew, which takes it ten seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv with Mnemoscope and its tools (PYTHON=... chooses the Python)

# The stamps lie in the virtual environment, so one that is absent, made by hand or half installed is seen.
$(RUNTIME): pyproject.toml requirements.lock .ci/install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "Mnemoscope needs Python 3.10 or newer: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(QUIETLY) "Installing Mnemoscope into $(VENV)" .ci/install $(VENV) --editable .
	@touch $@

$(STAMP): $(RUNTIME)
	@$(QUIETLY) "Installing its developers' tools" .ci/install $(VENV) --group dev --editable .
	@touch $@

.PHONY: demo
demo: $(RUNTIME) ## Show what carries the fact that the capital of Japan is Tokyo, in the demo model
	@$(BIN)/mnemoscope attribute "The capital of Japan is the city of" --target " Tokyo" --top 10

.PHONY: test
test: $(STAMP) ## Run everything CI runs: format, lint, types and tests
	@$(MAKE) --no-print-directory --jobs=4 $(COMPILED) $(OLDEST)/.installed $(PACKED)/.installed $(SITE)/.installed
	@$(MAKE) --no-print-directory --jobs=2 beside-pytest pytest

.PHONY: test-all
test-all: test ## Run everything CI runs, then what takes too long for each push
	OMP_NUM_THREADS=1 $(BIN)/pytest -m nightly --numprocesses $(WORKERS) --dist worksteal
	$(BIN)/pytest tests/browser/test_demo_page.py

.PHONY: pytest
pytest: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

# The first process that imports modules and tests compiles them: one does, while other packages are fetched,
# instead of each worker.
$(COMPILED): $(STAMP)
	@$(QUIETLY) "Compiling modules and tests" $(BIN)/pytest --collect-only --quiet
	@touch $@

.PHONY: beside-pytest
beside-pytest: $(STAMP)
	@$(QUIETLY) "make lint" $(MAKE) lint
	@$(QUIETLY) "make test-oldest" $(MAKE) test-oldest
	@$(QUIETLY) "make test-packed" $(MAKE) test-packed
	@$(QUIETLY) "make test-site" $(MAKE) test-site

.PHONY: test-oldest
test-oldest: $(OLDEST)/.installed ## Validate the families with the oldest transformers that is supported
	PYTHONPATH=$(OLDEST) OMP_NUM_THREADS=1 $(BIN)/pytest $(OLDEST_TESTS)

# It lies beside .venv and not in it, and brings what else must be older, so the lock does not bind it.
$(OLDEST)/.installed: $(STAMP)
	@rm -rf $(OLDEST)
	@$(QUIETLY) "Installing the oldest transformers" $(BIN)/python -m pip install --quiet \
		--no-compile --disable-pip-version-check --target $(OLDEST) \
		"transformers==$$(sed -n 's/.*"transformers>=\(.*\)".*/\1/p' pyproject.toml).0"
	@touch $@

.PHONY: test-lowest
test-lowest: $(LOWEST)/.installed ## Run some tests and the demo with the lowest versions that pyproject.toml names
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m "not demo" $(LOWEST_TESTS)
	$(LOWEST)/bin/mnemoscope attribute "The capital of Japan is the city of" --target " Tokyo" --top 10

# pip installs torch, as it takes a CPU build where one is at hand; uv alone resolves to the lowest versions.
$(LOWEST)/.installed: $(STAMP)
	@rm -rf $(LOWEST)
	@$(PYTHON) -m venv $(LOWEST)
	@$(QUIETLY) "Installing torch and uv" $(LOWEST)/bin/python -m pip install --quiet \
		--constraint requirements.lock torch uv
	@$(QUIETLY) "Installing the lowest versions" $(LOWEST)/bin/uv pip install --quiet \
		--python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[peft,study,web]' \
		"pytest>=8.2" "pytest-timeout>=2.3" "hypothesis>=6.100" "httpx>=0.28" "polars>=1.0"
	@touch $@

.PHONY: test-packed
test-packed: $(PACKED)/.installed ## Open models that torchao and bitsandbytes packed in 8 or 4 bits
	PYTHONPATH=$(PACKED) OMP_NUM_THREADS=1 $(BIN)/pytest tests/model/test_packed.py

# Both need nothing that .venv does not have, and are kept out of it: see the tests.
$(PACKED)/.installed: $(STAMP)
	@rm -rf $(PACKED)
	@$(QUIETLY) "Installing torchao and bitsandbytes" .ci/install $(VENV) --no-deps --target $(PACKED) --group packed
	@touch $@

.PHONY: site
site: $(SITE)/.installed ## Build the documentation into build/site; a broken link is an error
	PYTHONPATH=$(abspath $(SITE)) NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.PHONY: test-site
test-site: $(SITE)/.installed ## Build the documentation, the wheel and the sdist, and test them
	PYTHONPATH=$(abspath $(SITE)) OMP_NUM_THREADS=1 $(BIN)/pytest tests/test_site.py tests/test_packaging.py

$(SITE)/.installed: $(STAMP)
	@rm -rf $(SITE)
	@$(QUIETLY) "Installing mkdocs and build" .ci/install $(VENV) --target $(SITE) --group site
	@touch $@

.PHONY: lock
lock: $(STAMP) ## Write requirements.lock anew: the newest versions of all that is installed
	@$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --all-extras --group dev --group packed \
		--group site --no-annotate --no-header --output-file requirements.lock pyproject.toml

.PHONY: lint
lint: setup ## Check format, lint, layers, words and types without changing anything
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports
	$(BIN)/python .ci/check_voice.py
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
