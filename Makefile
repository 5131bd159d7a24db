# Everything a contributor types. A bare machine needs Python 3.11 to 3.13 and make; the rest is installed here.
SHELL := /bin/sh
.DEFAULT_GOAL := help

BIN := .venv/bin
INSTALLED := .venv/installed
EDGE := .venv-edge/installed
PEERS := .venv-peers/installed
MANIFEST := dbt_project/target/manifest.json
DBT_SOURCES := $(shell find dbt_project -type f -not -path '*/target/*' -not -path '*/logs/*' 2>/dev/null)
KERNELS := kurashiru_pipeline/core/native.py $(wildcard kurashiru_pipeline/core/kernels/*.py)
PYTHON_OK := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

.PHONY: help setup demo test dev bench peers smoke check lint types sql dbt lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(MANIFEST) $(EDGE) ## install everything into .venv (PYTHON=... picks the interpreter)

demo: setup ## run the whole pipeline for a minute and report, then stop it
	$(BIN)/kurashiru demo $(ARGS)

dev: setup ## the same stack kept open, with traffic flowing
	$(BIN)/kurashiru dev $(ARGS)

test: setup ## run all tests (ARGS='-k name' for some)
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadgroup $(ARGS)

bench: setup peers ## measure speed beside floors and peers (ARGS='--size medium')
	$(BIN)/kurashiru bench $(ARGS)

smoke: setup ## run every scenario of the benchmark once, small, to see that it works
	$(BIN)/kurashiru bench --size small

peers: $(PEERS) ## install what the benchmark measures beside into .venv-peers

check: lint types sql dbt ## lint, types, SQL and dbt project

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup
	$(BIN)/mypy

sql: setup
	$(BIN)/sqlfluff lint --disable-progress-bar kurashiru_pipeline/sql dbt_project/models dbt_project/tests

dbt: setup
	$(BIN)/kurashiru prepare

lock: setup ## write requirements.lock and the other locks anew (ARGS=--upgrade for newer versions)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --extra dev pyproject.toml --output-file requirements.lock $(ARGS)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header tests/edge/ministack.in --output-file tests/edge/ministack.lock $(ARGS)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header benchmarks/peers.in --output-file benchmarks/peers.lock $(ARGS)

clean: ## remove .venv, caches and build output; .kurashiru (your data) stays
	@if [ -x $(BIN)/kurashiru ]; then $(BIN)/kurashiru down; fi
	rm -rf .venv .venv-edge .venv-peers build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis dbt_project/target dbt_project/logs
	find kurashiru_pipeline benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# uv itself is one of the locked packages: pip installs that one, uv the others. Where uv cannot reach the
# package index (a mirror that only pip is configured for), pip installs the same lock.
$(INSTALLED): requirements.lock pyproject.toml setup.py
	@rm -f $@
	@if ! $(BIN)/python -c '$(PYTHON_OK)' 2>/dev/null; then \
	  for candidate in $${PYTHON:-python3 python3.13 python3.12 python3.11}; do \
	    if $$candidate -c '$(PYTHON_OK)' 2>/dev/null; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: no Python 3.11 to 3.13 found (tried $${PYTHON:-python3, python3.13, python3.12, python3.11});" \
	      "install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
	  fi; \
	  rm -rf .venv; \
	  if ! $$found -m venv .venv; then \
	    rm -rf .venv; \
	    echo "make: $$found cannot create a virtual environment; on Debian and Ubuntu install its venv package:" \
	      "apt install python3-venv" >&2; exit 1; \
	  fi; \
	fi
	@echo 'installing the packages of requirements.lock into .venv'
	@awk '/^[^ ]/ {uv = /^uv==/} uv' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --require-hashes -r .venv/uv.lock
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --compile-bytecode --require-hashes requirements.lock \
	  || $(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q kurashiru_pipeline
	@touch $@

# The AWS emulator of tests/edge has an environment of its own: it pins botocore.
$(EDGE): tests/edge/ministack.lock | $(INSTALLED)
	@rm -rf .venv-edge
	@echo 'installing the packages of tests/edge/ministack.lock into .venv-edge'
	@$(BIN)/python -m venv --without-pip .venv-edge
	@$(BIN)/uv pip sync --quiet --python .venv-edge/bin/python --compile-bytecode --require-hashes $< \
	  || $(BIN)/python -m pip --python .venv-edge/bin/python install --quiet --no-deps --require-hashes -r $<
	@touch $@

# Peers bring their own versions of what the package has as well.
$(PEERS): benchmarks/peers.lock | $(INSTALLED)
	@rm -rf .venv-peers
	@echo 'installing the packages of benchmarks/peers.lock into .venv-peers'
	@$(BIN)/python -m venv --without-pip .venv-peers
	@$(BIN)/uv pip sync --quiet --python .venv-peers/bin/python --compile-bytecode --require-hashes $< \
	  || $(BIN)/python -m pip --python .venv-peers/bin/python install --quiet --no-deps --require-hashes -r $<
	@touch $@

$(MANIFEST): $(INSTALLED) $(DBT_SOURCES) $(KERNELS)
	$(BIN)/kurashiru prepare
	@touch $@
