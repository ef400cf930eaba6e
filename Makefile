# Everything a user does starts here; `make help` lists it.
SHELL := /bin/bash
VENV ?= .venv
EXTRAS ?= dev
PYTHON ?= python3.11
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(subst $(shell echo ,),-,$(EXTRAS))
# pip's find-links (a folder of wheels) is honoured by uv only when handed over; where there is
# none, uv picks the torch build that fits the machine (CPU or CUDA).
FIND_LINKS := $(strip $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)))
TORCH_BACKEND ?= $(if $(FIND_LINKS),,auto)
INSTALL := $(if $(FIND_LINKS),UV_FIND_LINKS="$(FIND_LINKS)") UV_LINK_MODE=copy $(BIN)/uv pip install --python $(BIN)/python \
	$(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND))
PROFILE ?= smoke
RUN_FLAGS ?=

.PHONY: help install run stop status test lint typecheck unit end-to-end browser bench lock clean
help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | column -t -s $$'\t'

install: $(STAMP) ## create .venv and install the project and its pinned dependencies
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	$(INSTALL) -e ".[$(EXTRAS)]" -c constraints.txt
	touch $@

lock: $(STAMP) ## resolve constraints.txt anew from pyproject.toml
	$(if $(FIND_LINKS),UV_FIND_LINKS="$(FIND_LINKS)") $(BIN)/uv pip compile pyproject.toml --extra dev --extra cloud \
		--no-header --no-annotate --no-emit-find-links --upgrade -o constraints.new
	sed -i 's/+cpu$$//' constraints.new && echo "compare constraints.new with constraints.txt, test, then move it"
