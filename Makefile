# Everything a user does starts here; `make help` lists it.
SHELL := /bin/bash
VENV ?= .venv
EXTRAS ?= dev
PYTHON ?= python3.11
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# pip's find-links (a folder of wheels) is honoured by uv only when handed over; where there is
# none, uv picks the torch build that fits the machine (CPU or CUDA).
FIND_LINKS := $(strip $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)))
TORCH_BACKEND ?= $(if $(FIND_LINKS),,auto)
INSTALL := $(if $(FIND_LINKS),UV_FIND_LINKS="$(FIND_LINKS)") UV_LINK_MODE=copy $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python \
	$(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND))
PROFILE ?= smoke
TEST_WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q
# File by file, because tests of a file share fixtures, and the longest first (tests/conftest.py). Not `loadgroup`: with
# pytest 9.2, pytest-xdist 3.8 ignores its groups without a word.
SPREAD = -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
RUN_FLAGS ?=

.PHONY: help install lock run up stop status test lint typecheck unit explore end-to-end faults chromium llama bench clean
help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(STAMP) ## create .venv and install the project and its pinned dependencies
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	$(INSTALL) -e ".[$(EXTRAS)]" -c constraints.txt
	touch $@

run: $(STAMP) ## the whole pipeline: servers, deployment, one run, a report (PROFILE=smoke)
	$(BIN)/sam2 run --profile $(PROFILE) $(RUN_FLAGS)

up: $(STAMP) ## start the Prefect server, the MLflow server and the worker
	$(BIN)/sam2 up

stop: ## stop them; leaves no process behind
	test ! -x $(BIN)/sam2 || $(BIN)/sam2 stop

status: $(STAMP) ## servers, ports, last runs
	$(BIN)/sam2 status

test: lint typecheck unit end-to-end ## everything that must hold before a change lands

lint: $(STAMP) ## style and import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP) ## static types
	$(BIN)/mypy

# A thread for each worker: with two each they would wait for one another on two cores.
unit: $(STAMP) ## all tests that need no server
	OMP_NUM_THREADS=1 $(PYTEST) $(SPREAD) -m "not end_to_end and not browser"

explore: $(STAMP) ## the property tests with new random examples
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest -q -m "not end_to_end and not browser" $$(grep -rl "hypothesis" tests --include="test_*.py")

end-to-end: $(STAMP) ## real servers, a miniature pipeline run, kills, and the pages in a real browser
	$(PYTEST) -m "end_to_end or browser"

faults: $(STAMP) ## kill, freeze, starve and poison a small training run at random; it must end as if left alone
	$(BIN)/python -m tests.faults.campaign

# The browser tests drive the system's chromium; without one they are skipped, and say so.
chromium: ## install Debian's chromium for the browser tests (needs root)
	apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core

# Optional: without it, files of HGRN-2 models run in PyTorch, and the tests that need it are skipped.
llama: $(STAMP) ## build llama.cpp with the hgrn2 architecture, once (needs cmake and g++; about 4 core minutes)
	$(BIN)/python -m model.llama_cpp.build

bench: $(STAMP) ## every benchmark: ours against a peer, one ratio each (hours, on two cores)
	$(INSTALL) -e ".[bench]" -c constraints.txt
	$(BIN)/python -m benchmarks.corpus
	for script in $$(grep -l __main__ benchmarks/*.py | grep -v corpus); do name=$$(basename $$script .py); \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done

lock: $(STAMP) ## resolve constraints.txt anew from pyproject.toml, into constraints.new
	$(if $(FIND_LINKS),UV_FIND_LINKS="$(FIND_LINKS)") $(BIN)/uv pip compile pyproject.toml --extra dev --extra cloud --extra bench \
		--no-header --no-annotate --no-emit-find-links --upgrade -o constraints.new
	sed -i 's/+cpu$$//' constraints.new
	@echo "compare constraints.new with constraints.txt, run the tests, then replace it"

clean: ## remove the servers' data, artifacts and caches (not .venv)
	-$(BIN)/sam2 stop
	rm -rf .sam2 .pytest_cache .mypy_cache .ruff_cache .hypothesis
