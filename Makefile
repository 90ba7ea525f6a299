# The two commands of the README, and what the people who work on it use.
# They need Python 3.11 or newer and make, and keep to a virtual environment of their own.

VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
LISTEN ?= 127.0.0.1:8000

.PHONY: demo test coverage lint bench docs pictures clean

demo: $(VENV)/.demo ## play the game: a Django site whose game routes are WebAssembly
	$(BIN)/python example_projects/finicky_whiskers/manage.py demo --listen $(LISTEN)

test: $(VENV)/.dev ## everything that CI checks
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses=4 --dist=loadfile --max-worker-restart=0 $(ARGS)

coverage: $(VENV)/.dev ## the same tests, and the lines that none of them runs
	$(MAKE) test ARGS='--cov --cov-report=term $(ARGS)'

bench: $(VENV)/.dev ## the tables of benchmarks/README.md, measured on this machine
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.dev ## the documentation site, in build/docs/html
	$(BIN)/python -m sphinx -M html docs build/docs -E -W -n --keep-going $(ARGS)

pictures: $(VENV)/.dev ## the pictures of the documentation, taken of the running examples by Chromium
	$(BIN)/python docs/take_pictures.py

lint: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/mypy

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/python -m pip install --quiet --editable '.[django,flask]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.demo

# Debian splits ensurepip off its Python; a pip elsewhere can fill the environment then.
$(VENV)/bin/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with make PYTHON=/path/to/python" >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); \
		$(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(VENV)/bin/python install --quiet pip; } || \
		$(PYTHON) -m virtualenv --quiet $(VENV) || \
		{ echo "$(PYTHON) can make no virtual environment: install its venv module (Debian: python3-venv)" >&2; exit 1; }

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
