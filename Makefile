# `make demo` trains on scikit-learn's digits, `make test` runs every check. Each makes its own virtual environment
# and installs what it needs with pip; VENV=path puts it elsewhere, PYTHON=python3.12 picks the interpreter.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test lint format docs notebooks clean

# One thread: the net is so small that a second one only waits for the first.
demo: $(VENV)/examples.stamp
	OMP_NUM_THREADS=1 $(BIN)/onecycle train digits

test: lint
	$(BIN)/mypy
	$(BIN)/python -m pytest

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check

format: $(VENV)/dev.stamp
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# The documentation site, in site/. The variable silences advice about another site generator.
docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Run them again, and keep their outputs in the files.
notebooks: $(VENV)/dev.stamp
	$(BIN)/python -m notebooks.execute

clean:
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info

# Installed again when pyproject.toml is newer; each set of extras on its own.
$(VENV)/%.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[$*]"
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
