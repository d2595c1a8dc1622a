# `make demo` renders the quick-start campaign; `make test` runs every check. Each sets itself up.

# The first Python that really runs and fits; a shim on the PATH may not.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# One pip command with the constraints: anything that pulls another torch breaks diffusers.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# One more than there are cores, up to four: many tests wait for a process to start, or for a retry.
WORKERS ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$(( cores < 4 ? cores + 1 : 4 )))

.DEFAULT_GOAL := help
.PHONY: help demo test lint types imports unit faults fuzz coverage bench schema clean

help:  ## Show what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.installed  ## Render the quick-start campaign (CPU, no downloads)
	$(BIN)/lynx-engine render manifests/quickstart.yaml

test: lint types imports unit  ## Run lint, types, import contracts and all tests

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-test
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(VENV)/.installed-test
	$(BIN)/lint-imports

unit: $(VENV)/.installed-test $(VENV)/.browser
	$(BIN)/pytest --numprocesses=$(WORKERS) --dist=worksteal --durations=15

faults: $(VENV)/.installed-test  ## Break everything at full size (an hour); prints the figures
	LYNX_FAULTS=full $(BIN)/pytest -n0 --timeout=7200 tests/faults

fuzz: $(VENV)/.installed-test  ## Try 12,000 manifests and 5,000 pictures that nobody should have made (half an hour)
	LYNX_FAULTS=full $(BIN)/pytest -n0 --timeout=7200 tests/fuzz

# Processes that tests start elsewhere find the settings and the data by whole paths.
coverage: export COVERAGE_FILE = $(CURDIR)/.coverage
coverage: export COVERAGE_RCFILE = $(CURDIR)/pyproject.toml
coverage: $(VENV)/.installed-test $(VENV)/.browser  ## Run all tests and count the branches they take (twice as long)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses=$(WORKERS) --dist=worksteal --timeout=900
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet -o .coverage.json
	$(BIN)/python -m tests.branch_coverage .coverage.json 90

bench: $(VENV)/.installed-test  ## Measure every figure that needs no GPU on an idle machine
	$(BIN)/python -m tests.benchmarks

schema: $(VENV)/.installed-test  ## Write manifests/manifest.schema.json and docs/provenance.md anew
	$(BIN)/python -c "from lynx_engine.manifest.matrix_schema import manifest_json_schema as s; print(s(), end='')" > manifests/manifest.schema.json
	$(BIN)/python -c "from lynx_engine.provenance.columns import provenance_page as p; print(p(), end='')" > docs/provenance.md

clean:  ## Remove the environment and caches; outputs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# pip is the last thing that venv writes: an environment without it is half made, and made anew.
$(VENV)/bin/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; name one: make PYTHON=..."; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV) || { echo "$(PYTHON) cannot make a virtual environment;" \
		"install what it lacks (Debian: apt-get install python3-venv) and run make again."; exit 1; }

# A Chromium for the browser tests, from Debian when root; playwright's own would be a download.
$(VENV)/.browser: $(VENV)/bin/pip
	@for program in "$$LYNX_CHROMIUM" chromium chromium-browser google-chrome-stable google-chrome; do \
		command -v "$$program" >/dev/null && exec touch $@; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update --quiet=2 && \
		apt-get install --yes --quiet=2 --no-install-recommends chromium && touch $@; \
	else echo "The browser tests need Chromium: install it (Debian: apt-get install chromium)," \
		"or let LYNX_CHROMIUM name one."; exit 1; fi

$(VENV)/.installed: $(VENV)/bin/pip pyproject.toml constraints.txt
	@echo "Installing into $(VENV): some minutes, once. If it is stopped, run make again."
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/bin/pip pyproject.toml constraints.txt
	@echo "Installing into $(VENV): some minutes, once. If it is stopped, run make again."
	@$(INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.installed
