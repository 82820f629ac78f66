# Needs Python >= 3.11, pip, make and a C++ compiler; each target sets up the rest by itself, inside this folder.

ENV   := .venv/.synced
BIN   := .venv/bin
UV    := $(if $(shell uv --version 2>/dev/null),uv,.tools/bin/uv)
TOOLS := $(filter .tools/%,$(UV))
CODE  := $(wildcard src tests benchmarks scripts)

export UV_PROJECT_ENVIRONMENT := .venv
export DATA ?= ../shared/data
# or pyright asks the network for its newest version
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help demo test check bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(ENV)  ## draw pictures, then pack, train, eval and predict: about a minute on two cores
	@$(BIN)/eighteen demo demo

test: $(ENV)  ## run all tests
	@$(BIN)/pytest -q --durations=10

check: $(ENV)  ## format, lint, types, layers
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/pyright
	@$(BIN)/pytest -q tests/test_layers.py

bench: $(ENV)  ## run the benchmarks, on the pictures in DATA=
	@set -e; for name in startup overhead training finetuning; do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done

clean:  ## remove what the targets made, the environment too
	rm -rf .tools .venv demo .hypothesis .pytest_cache .ruff_cache

$(ENV): pyproject.toml uv.lock | $(TOOLS)
	@echo "Setting up .venv from uv.lock: some minutes and some GB the first time ..."
	@$(UV) sync --locked $(if $(CI),--quiet)
	@touch $@

# into a folder of its own: works for root, without the venv module, and where pip may not touch the system's Python
.tools/bin/uv:
	@echo "Getting uv into .tools ..."
	@python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target .tools uv
