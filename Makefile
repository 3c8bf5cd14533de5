# synthq: set up, check and try it. Needs make, a POSIX shell and Python 3.11 or newer; everything else goes into .venv.

# What the caller's shell says about Python must not reach the environment made here.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV CONDA_PREFIX PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV
export PYTHONNOUSERSITE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; echo python3)
VENV := .venv
# vLLM lives apart: its pins do not fit beside these.
VLLM_ENV ?= .venv-vllm
RUN := $(VENV)/bin/python
# Tests run one at once more than there are cores (tests/conftest.py), four at the most; a file's one after the other.
TOGETHER := --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
# What is pinned, what is asked for, and where: a change of one gives the stamps another name, and so another install.
DIGEST := $(shell { pwd; cat pyproject.toml constraints.txt; } | cksum | tr -d ' ')
DEMO := $(VENV)/.installed-demo-$(DIGEST)
DEV := $(VENV)/.installed-dev-$(DIGEST)

.PHONY: help install dev vllm-env demo demo-quick test test-slow check format clean

help:  ## Show this list
	@awk -F ':.*##' '/^[a-z-]+:.*##/ { printf "  make %-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(DEMO)  ## Make .venv with what it takes to run synthq
	@echo "synthq is installed: $(VENV)/bin/synthq"

dev: $(DEV)  ## Make .venv with what it takes to work on synthq
	@echo "synthq and its tools are installed in $(VENV)/bin"

vllm-env:  ## Make .venv-vllm, from which inference workers serve models with vLLM (minutes, gigabytes)
	@PYTHON='$(PYTHON)' docker/vllm-env '$(VLLM_ENV)'

demo: $(DEMO)  ## Teach a tiny model Crafter from pictures, improve it, prove it (KEEP=1 leaves synthq running)
	@$(RUN) -m cli.main demo $(if $(filter-out 0,$(KEEP)),--keep) $(DEMO_ARGS)

demo-quick: $(DEMO)  ## The same in a few minutes, with too little of everything to prove much
	@$(RUN) -m cli.main demo --quick $(if $(filter-out 0,$(KEEP)),--keep) $(DEMO_ARGS)

test: $(DEV)  ## Pass the tests that are quick, and those of acceptance (ARGS="-k name" passes words to pytest)
	@$(RUN) -m pytest $(TOGETHER) -m 'not slow or acceptance' $(ARGS)

test-slow: $(DEV)  ## Pass the tests that take more than ten seconds
	@$(RUN) -m pytest $(TOGETHER) -m 'slow and not acceptance' $(ARGS)

check: $(DEV)  ## Read the code: ruff, mypy, import-linter, and the constraints file
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(RUN) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --config .importlinter
	$(RUN) -m pytest -q tests/setup/test_constraints.py

format: $(DEV)  ## Put the code into ruff's form
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

clean:  ## Remove both environments and what tools left behind (never .synthq, where your data is)
	rm -rf $(VENV) .venv-vllm build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find app workers cli tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The dev set holds the demo set, so it makes both stamps.
$(DEMO): | $(RUN)
	@$(call install,embedded$(COMMA)flower$(COMMA)model$(COMMA)plots)
	@touch $@

$(DEV): | $(RUN)
	@$(call install,embedded$(COMMA)flower$(COMMA)postgres$(COMMA)gym$(COMMA)model$(COMMA)plots$(COMMA)dev)
	@touch $@ $(DEMO)

# An environment holds its own path; one that was made elsewhere (a moved or copied checkout) is made anew.
ifeq ($(shell test ! -e $(VENV)/pyvenv.cfg || grep -q -F '$(CURDIR)/$(VENV)' $(VENV)/pyvenv.cfg || echo moved),moved)
.PHONY: $(RUN)
endif

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "synthq needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1 | head -n 1); try: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module; on Debian and Ubuntu it is in the package python3-venv" >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)

COMMA := ,

# install EXTRAS: pip's words go to a log; the terminal gets a dot every two seconds, and the log's end when pip fails.
# setuptools comes first, pinned like the rest, so that nothing is built with another one.
define install
started=$$(date +%s); log=$(VENV)/install.log; \
printf 'installing synthq[$(1)] with %s into $(VENV) ' "$$($(RUN) -V)"; \
( $(RUN) -m pip install -c constraints.txt setuptools && \
  $(RUN) -m pip install --no-build-isolation --use-pep517 -c constraints.txt -e '.[$(1)]' ) >$$log 2>&1 & pip=$$!; \
trap 'kill $$pip 2>/dev/null; exit 130' INT TERM; \
while kill -0 $$pip 2>/dev/null; do printf .; sleep 2; done; \
if wait $$pip; then echo " $$(( $$(date +%s) - started )) s"; \
else echo; tail -n 15 $$log >&2; echo "pip could not install synthq; all it said is in $$log" >&2; exit 1; fi
endef
