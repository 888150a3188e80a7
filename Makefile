# Set-up on a fresh machine with Python >= 3.11:
#   make quickstart   .venv, installation under constraints.txt, one trained model and its table
#   make test         the same .venv with the test extra; ruff, mypy, import-linter, pytest in two processes; then test-hosts
#   make test-hosts   .venv-hosts with the models that persrec.plug attaches to (RecTools needs numpy < 2); their tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
HOSTS := .venv-hosts

.PHONY: quickstart test test-hosts clean

quickstart: $(VENV)/.installed
	$(BIN)/persrec fit quickstart --overwrite

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2
	$(MAKE) test-hosts

test-hosts: $(HOSTS)/.installed
	$(HOSTS)/bin/python -m pytest tests/plug tests/peers tests/contracts/test_hosts.py tests/models/test_hosted.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[test]'
	touch $@ $(VENV)/.installed

$(HOSTS)/.installed: constraints-hosts.txt
	$(PYTHON) -m venv $(HOSTS)
	$(HOSTS)/bin/python -m pip install --quiet --constraint constraints-hosts.txt \
		'rectools[torch]' torch-rechub transformers pytest pytest-timeout
	touch $@

clean:
	rm -rf $(VENV) $(HOSTS) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
