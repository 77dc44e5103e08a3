# make demo | demo-vae | test | test-newest | test-lowest | coverage | test-slow | test-faults | lint | format | docs | links | notebooks | dist | clean
# Needs Python 3.11 or newer and make. Everything installs into .venv; nothing outside this folder is touched.
# For torch without CUDA from its own index: make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
NEWEST_PYTHON ?= python3.13
WORKERS ?= 2
VENV := .venv
NEWEST := .venv-newest
LOWEST := .venv-lowest
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo demo-vae test test-newest test-lowest docs links notebooks dist coverage test-slow test-faults lint format install install-dev clean

help:
	@echo "make demo       install into .venv, compare guides with NUTS on eight schools, write runs/demo/report.html"
	@echo "make demo-vae   train a digits VAE, evaluate it, write its pictures to runs/demo-vae"
	@echo "make test       the tests"
	@echo "make test-newest  the same on Python 3.13 (NEWEST_PYTHON=...) with the newest release of everything, in $(NEWEST)"
	@echo "make test-lowest  a part of them on Python 3.11 with the lowest releases that pyproject.toml allows, in $(LOWEST)"
	@echo "make docs       the pages of docs/ as a site in build/site; warnings are errors, and so are links into it that lead nowhere"
	@echo "make links      asks for the links that lead out of the site (needs the network)"
	@echo "make notebooks  run the notebooks of docs/gallery again and keep what they show"
	@echo "make dist       wheel and sdist in dist/, checked, installed and tried on Python 3.11, 3.12 and 3.13"
	@echo "make coverage   the same, which lines they reach, and failure below 85%"
	@echo "make test-slow  the statistical and packaging tests that take minutes"
	@echo "make test-faults  bad input, kills, full disks, damaged files: the reliability scorecard, line by line"
	@echo "make lint       ruff, import-linter and mypy"
	@echo "make format     let ruff rewrite the sources"
	@echo "make clean      remove .venv, $(NEWEST), $(LOWEST), caches and build outputs (runs/ stays)"

# The environment is built once, and again when what it is built from changes.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pyrolvm needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Fix: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet $(PIP_ARGS) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

# Whatever is newest today, and nothing pinned: make clean, or remove the folder, to build it again.
$(NEWEST)/.installed: pyproject.toml
	@set -e; python=$(NEWEST_PYTHON); \
	check='import sys; sys.exit(sys.version_info < (3, 12))'; \
	"$$python" -c "$$check" 2>/dev/null || python="$$(pyenv prefix "$$(pyenv latest 3.13 2>/dev/null)" 2>/dev/null)/bin/python"; \
	"$$python" -c "$$check" 2>/dev/null || { echo "make test-newest needs Python 3.12 or newer, and $(NEWEST_PYTHON) is none." \
		"Fix: make test-newest NEWEST_PYTHON=/path/to/python3.13" >&2; exit 1; }; \
	"$$python" -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS) --editable '.[dev]'
	@touch $@

# The lowest releases that are allowed; what they ask for themselves is whatever fits.
$(LOWEST)/.installed: pyproject.toml .ci/lowest.py | $(BIN)/python
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet packaging
	$(LOWEST)/bin/python .ci/lowest.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS) --requirement $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/.installed-dev
	$(PIP) install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/pyrolvm compare eight_schools_noncentered --guide mean_field --guide full_rank --guide mixture \
		--guide autoregressive --guide flow \
		--warmup 500 --draws 500 --out runs/demo --overwrite

demo-vae: $(VENV)/.installed
	$(BIN)/python docs/examples/digits_vae.py runs/demo-vae

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-newest: $(NEWEST)/.installed
	$(NEWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal

# matplotlib before 3.10.7 asks the newest pyparsing for names of before, which is theirs to say.
LOWEST_TESTS ?= tests/compat tests/capture tests/density tests/exact tests/posterior tests/store tests/vi
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal -W ignore::DeprecationWarning:matplotlib._fontconfig_pattern $(LOWEST_TESTS)

# The line that Sphinx prints of each page is left out; what it warns of is an error. Pages of before that are gone would be looked up too.
docs: $(VENV)/.installed-docs
	rm -rf build/site
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --jobs 2 -b html docs build/site
	$(BIN)/python docs/check_links.py build/site
	@echo "build/site/index.html"

links: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --quiet --jobs 2 -b linkcheck docs build/links

notebooks: $(VENV)/.installed-docs
	$(BIN)/python docs/run_notebooks.py

dist: $(VENV)/.installed-dev
	$(BIN)/python .ci/dist.py $(if $(PIP_ARGS),--pip-args="$(PIP_ARGS)")

coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov=pyrolvm --cov-report=term:skip-covered --cov-fail-under=85

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "slow and not gpu"

test-faults: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -p tests.scorecard -m "(bad_input or fault) and not gpu"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(NEWEST) $(LOWEST) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
