# Needs only Python 3.11+ with pip, git and make (GNU make 3.81, which macOS has, is enough).

.DEFAULT_GOAL := help
.PHONY: help venv install serve test check format-check lint types pytest conformance fuzz soak fmt bench clean

TOO_OLD = import sys; sys.exit(sys.version_info < (3, 11))
# Tried by running it: a pyenv shim may exist for a version that does not.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	if $$p -c "$(TOO_OLD)" 2>/dev/null; then echo $$p; break; fi; done)
VENV ?= .venv
# Not `?=`: some shells export HOST as the machine's name, and that would open the server to the network.
HOST = 127.0.0.1
PORT = 8000
# More for pytest, as in: make pytest PYTEST_ARGS="-k restart -x"
PYTEST_ARGS =
# Processes that share the tests, a file at a time. 0: none but pytest's own, as for --pdb.
JOBS = 2
# More for the official suite, as in: make conformance CONFORMANCE_ARGS="--row proxy-http"
CONFORMANCE_ARGS =
# What atheris is told, as in: make fuzz FUZZ_ARGS="framer --seconds 600"
FUZZ_ARGS = --seconds 3 --seed 1
# What the chaos is told, as in: make soak SOAK_ARGS="--seconds 20 --seed 7"
SOAK_ARGS =

# With the environment's programs first, so that a config may say just `mcp-server-time`.
IN_VENV = PATH="$(abspath $(VENV)/bin):$$PATH"
PY = $(IN_VENV) "$(VENV)/bin/python"

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: PYTHON, VENV=$(VENV), HOST=$(HOST), PORT=$(PORT), PYTEST_ARGS, JOBS, CONFORMANCE_ARGS, FUZZ_ARGS, SOAK_ARGS"

venv: $(VENV)/bin/python ## The project's own virtual environment

$(VENV)/bin/python:
	@py='$(PYTHON)'; venv='$(VENV)'; \
	if [ -z "$$py" ]; then \
		echo "No Python 3.11 or newer among python3.13, python3.12, python3.11, python3." >&2; \
		echo "Install one, or say where it is: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; fi; \
	if ! "$$py" -c "$(TOO_OLD)"; then echo "$$py does not run, or is older than Python 3.11." >&2; exit 1; fi; \
	if [ -f "$$venv/pyvenv.cfg" ]; then rm -rf "$$venv"; \
	elif [ -e "$$venv" ]; then echo "$$venv exists and is no virtual environment; left alone." >&2; exit 1; fi; \
	echo "Making $$venv with $$py ($$("$$py" -V))"; \
	if "$$py" -c 'import ensurepip' 2>/dev/null; then "$$py" -m venv "$$venv"; \
	else "$$py" -m venv --without-pip "$$venv" && "$$py" -m pip --quiet --python "$$venv/bin/python" install pip; \
	fi || { rm -rf "$$venv"; echo "$$py could not make it (on Debian: apt install python3-venv)." >&2; exit 1; }

install: $(VENV)/.installed-examples ## mcpactors and the example servers, into the environment

$(VENV)/.installed-examples: pyproject.toml $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[examples]'
	@touch $@

# The test extra contains the examples.
$(VENV)/.installed-test: pyproject.toml $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/.installed-examples

serve: install ## Serve examples/mcp.json at http://HOST:PORT/mcp
	$(PY) -m mcpactors serve examples/mcp.json --host $(HOST) --port $(PORT)

test: check pytest conformance fuzz ## Format check, lint, types, all tests, the official suite, a little fuzzing

check: format-check lint types ## Format check, lint, types

format-check: $(VENV)/.installed-test
	$(PY) -m ruff format --check

lint: $(VENV)/.installed-test
	$(PY) -m ruff check

types: $(VENV)/.installed-test
	$(PY) -m mypy --strict mcpactors tests

pytest: $(VENV)/.installed-conformance ## All tests, without the checks
	$(PY) -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

# Its Node, which others' clients and servers run on in tests, too, may be one that no package is made for here, or not
# be reached: then the system's is tried.
$(VENV)/.installed-conformance: pyproject.toml $(VENV)/.installed-test
	@if $(PY) -m pip install --quiet --disable-pip-version-check --editable '.[conformance]'; then touch $@; fi

# 77: the suite cannot be had here, and what was printed says why.
conformance: $(VENV)/.installed-conformance ## The official conformance suite, on every path
	@$(PY) -m tests.conformance.run $(CONFORMANCE_ARGS) || test $$? -eq 77

$(VENV)/.installed-fuzz: pyproject.toml $(VENV)/.installed-test
	@if $(PY) -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'; then touch $@; fi

fuzz: $(VENV)/.installed-fuzz ## Fuzz what reads bytes from outside, a few seconds each
	@$(PY) -m tests.fuzz.run $(FUZZ_ARGS) || test $$? -eq 77

# 77: not here, and what was printed says why.
soak: $(VENV)/.installed-test ## Two minutes of chaos from a seed, the promises checked each second
	@$(PY) -m tests.soak.soak $(SOAK_ARGS) || test $$? -eq 77

fmt: $(VENV)/.installed-test ## Format, and mend what lint can mend
	$(PY) -m ruff check --fix --exit-zero --quiet
	$(PY) -m ruff format

bench: $(VENV)/.installed-test ## Run each benchmarks/*.py
	@for file in benchmarks/*.py; do \
		case "$$file" in (*/_*|"benchmarks/*.py") continue;; esac; \
		echo "== $$file"; $(PY) "$$file" || exit 1; \
	done

clean: ## Remove environments, caches, build results
	rm -rf .venv .venv-* tests/conformance/node_modules tests/conformance/results tests/counterparts/node_modules build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
