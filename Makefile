# Two commands do everything on a fresh machine: `make demo` and `make test`. Both make the environment they need.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
FAISS  ?= cpu
WORKERS ?= 2
READY  := $(VENV)/.ready-$(FAISS)

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= true

.PHONY: help setup demo test test-slow test-kill test-ray test-browser test-gpu test-dagster dagster test-docs docs check format package clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## the environment in .venv (FAISS=gpu or gpu-cuvs for another faiss build)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip uninstall --quiet --yes faiss-cpu faiss-gpu faiss-gpu-cuvs 2>/dev/null || true
	@rm -f $(VENV)/.ready-*
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(FAISS),minilm,serve,dev]'
	@touch $@

demo: $(READY)  ## the main job on a synthetic platform, about three minutes
	$(BIN)/noterec demo --out demo

test: $(READY)  ## the default tests: no network, no GPU, three to four minutes
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not gpu and not ray and not browser"

test-slow: $(READY)  ## the tests that take longer
	$(BIN)/python -m pytest -m "slow and not gpu and not ray"

test-kill: $(READY)  ## an embedding job that is killed 25 times
	NOTEREC_KILLS=25 $(BIN)/python -m pytest tests/embedding/test_killed.py

test-ray: $(READY)  ## encoders on a Ray cluster of this machine
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[ray]'
	$(BIN)/python -m pytest -m ray

test-browser: $(READY)  ## the explorer in a headless Chromium, which has to be installed
	$(BIN)/python -m pytest -m browser tests/serving/explorer

test-gpu: $(READY)  ## what can only be verified on a GPU
	$(BIN)/python -m pytest -m gpu tests/gpu

test-dagster: .venv-dagster/.ready  ## the nightly job in Dagster, in an environment of its own
	.venv-dagster/bin/python -m pytest -m dagster tests/pipelines

dagster: .venv-dagster/.ready  ## Dagster's page for the nightly job, on a synthetic platform unless NOTEREC_NIGHTLY names its settings
	.venv-dagster/bin/dagster dev

.venv-dagster/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-dagster
	.venv-dagster/bin/pip install --quiet --disable-pip-version-check -e '.[$(FAISS),dagster]' pytest hypothesis
	@touch $@

test-docs: $(READY)  ## every command and Python block of README.md and docs/, really run: about five minutes
	$(BIN)/python -m tests.docs.run --jobs $(WORKERS)

docs: $(READY)  ## the documentation as a site in site/, to be read from the folder or any web server; links are checked
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

check: $(READY)  ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

package:  ## wheel and sdist in dist/, checked, and used in clean environments: about ten minutes
	PYTHON=$(PYTHON) tests/packaging/package.sh

clean:  ## remove what the targets above made
	rm -rf $(VENV) .venv-dagster nightly-demo demo build dist site .mypy_cache .ruff_cache .hypothesis *.egg-info
