# regimegate. `make` alone lists what can be done. It needs Python 3.11 and make, nothing else: every tool it uses
# is installed from the lock files into .venv, a folder inside this checkout.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

# The first of these that is really Python 3.11 (a pyenv shim of that name may exist and still answer "not installed").
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

VENV := .venv
PY := $(VENV)/bin/python
# --no-compile saves a third of the time: Python compiles what it really uses, once, when it is first used.
# -qq: no warnings about this machine's own pip settings between our sentences; errors are still printed.
PIP_INSTALL := $(PY) -m pip install -qq --disable-pip-version-check --no-input --no-compile

# A virtual environment works only in the folder it was made for and with the Python it was made from. If the checkout
# was copied or moved, or Python was replaced, this is empty and the environment is made anew.
VENV_OK := $(shell [ "$$(cat $(VENV)/.made-in 2>/dev/null)" = "$$PWD" ] && $(PY) -c '' 2>/dev/null && echo yes)
ifneq ($(VENV_OK),yes)
$(VENV)/.made-in: FORCE
endif

# How many tests run at once (0: in this process, needed for a debugger), and what else to say to pytest:
# make unit JOBS=0 ARGS='-k adwin -x'
JOBS ?= 2
ARGS ?=
PYTEST = $(PY) -m pytest -n $(JOBS)
COVERAGE = --cov --cov-report=term

.PHONY: help
help: ## List what can be done (this is also what `make` alone does)
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# --- install -----------------------------------------------------------------------------------------------------

.PHONY: setup
setup: $(VENV)/.stamp-project ## Install everything it takes to run into .venv (about two minutes; at once if nothing changed)
	@echo "Ready: $(VENV)/bin/regime --help"

.PHONY: setup-dev
setup-dev: $(VENV)/.stamp-dev ## The same, and the tools that check and test the code

.PHONY: FORCE
FORCE:

$(VENV)/.made-in:
	@if [ -z "$(PYTHON)" ]; then \
		echo "regimegate needs Python 3.11, and neither python3.11 nor python3 on this machine is that version." >&2; \
		echo "Install it (Debian, Ubuntu: apt install python3.11 python3.11-venv), or name one: make setup PYTHON=/path/to/python3.11" >&2; \
		exit 1; fi
	@if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
		echo "regimegate needs Python 3.11; $(PYTHON) is not that version." >&2; exit 1; fi
	@if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$(PYTHON) has no venv module, so the environment cannot be made (Debian, Ubuntu: apt install python3.11-venv)." >&2; exit 1; fi
	@echo "Making $(VENV) with $(PYTHON) ..."
	@rm -rf $(VENV)
	@"$(PYTHON)" -m venv $(VENV)
	@echo "$$PWD" > $@

$(VENV)/.stamp-runtime: requirements.lock $(VENV)/.made-in
	@echo "Installing the locked packages (about 190 MB to fetch the first time) ..."
	@$(PIP_INSTALL) --require-hashes -r requirements.lock
	@touch $@

# pyproject.toml too: it holds the version and the name of the command.
$(VENV)/.stamp-project: pyproject.toml $(VENV)/.stamp-runtime
	@$(PIP_INSTALL) --no-index --no-deps --no-build-isolation --editable .
	@echo "Compiling the detectors' inner loops, once ..."
	@$(PY) -m regime_service.warm
	@touch $@

$(VENV)/.stamp-dev: requirements-dev.lock $(VENV)/.stamp-project
	@echo "Installing the locked tools for checks and tests ..."
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

# --- use ---------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: setup ## Start the service with a made market and show it at work (ONCE=1: one round, then stop)
	@$(VENV)/bin/regime demo $(if $(ONCE),--once)

# --- check -------------------------------------------------------------------------------------------------------

# One thread each: the tests already use every core, and sums must not depend on how many there are.
test unit fuzz schedules soak bench bench-detection bench-outcomes bench-parity: export OMP_NUM_THREADS = 1
test unit fuzz schedules soak bench bench-detection bench-outcomes bench-parity: export OPENBLAS_NUM_THREADS = 1
test unit bench bench-detection bench-outcomes bench-parity: export MPLBACKEND = Agg

.PHONY: test
test: setup lint setup-node ## Everything that must be right before a change goes in: lint, then the tests with their coverage
	@rm -f .coverage .coverage.*
	$(PYTEST) $(COVERAGE) $(ARGS)

.PHONY: lint
lint: $(VENV)/.stamp-dev ## Style, types and who may import whom; runs no test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy grafana/build.py
	$(VENV)/bin/lint-imports --no-logo

# Grafana's own types of a dashboard, and the TypeScript that compares. Where npm is missing the tests say what to do.
NODE := .node
$(NODE)/.stamp-schema-13.2.3:
	@rm -rf $(NODE)
	@if command -v npm >/dev/null && npm install --prefix $(NODE) --no-save --no-package-lock --no-audit --no-fund \
		--loglevel=error @grafana/schema@13.2.3 typescript@5.9.3 >/dev/null; then touch $@; else \
		echo "npm could not install @grafana/schema: the dashboards' types are not checked (apt install nodejs npm)"; fi

.PHONY: setup-node
setup-node: $(NODE)/.stamp-schema-13.2.3 ## What checks the dashboards' types (needs npm)

.PHONY: dashboards
dashboards: $(VENV)/.stamp-dev ## Write grafana/dashboards anew after a change in grafana/build.py
	@$(PY) grafana/build.py

.PHONY: format
format: $(VENV)/.stamp-dev ## Put the code into the one style, and mend what can be mended by machine
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.PHONY: unit
unit: $(VENV)/.stamp-dev ## The tests alone, without coverage (JOBS=0 ARGS='-k adwin -x' for a few, in one process)
	$(PYTEST) $(ARGS)

.PHONY: bench
bench: $(VENV)/.stamp-dev bench-http ## The benchmarks in tests/bench
	$(PY) -m pytest tests/bench -s $(ARGS)

.PHONY: bench-http
bench-http: $(VENV)/.stamp-dev ## The HTTP door beside a bare server: requests, push, hostile clients, start (ONLY=get,post)
	@$(PY) tests/bench/bench_http.py $(if $(ONLY),--only $(ONLY))

# frouros needs an older numpy than ours, so it lives in an environment of its own. Where it cannot be installed the
# bench says so and goes on: it is a peer to compare with, nothing of ours needs it.
FROUROS := .venv-frouros
$(FROUROS)/.stamp-0.9.0: $(VENV)/.made-in
	@echo "Installing frouros 0.9.0 into $(FROUROS) ..."
	@rm -rf $(FROUROS)
	@if $(PY) -m venv $(FROUROS) && \
		$(FROUROS)/bin/python -m pip install -qq --disable-pip-version-check --no-input frouros==0.9.0; then touch $@; else \
		rm -rf $(FROUROS); mkdir $(FROUROS); echo "pip could not install frouros 0.9.0" > $(FROUROS)/.reason; fi

.PHONY: bench-detection
bench-detection: $(VENV)/.stamp-dev $(FROUROS)/.stamp-0.9.0 ## The detectors beside river and frouros (SEED=n, QUICK=1, ARGS='--tables 1,3')
	@$(PY) -u tests/bench/bench_detection.py --seed $(or $(SEED),1) $(if $(QUICK),--quick) $(ARGS)

.PHONY: bench-outcomes
bench-outcomes: $(VENV)/.stamp-dev ## What thresholds and pauses cost on simulated bots, on fresh seeds (SEED=n, QUICK=1)
	@$(PY) tests/bench/bench_outcomes.py --seed $(or $(SEED),1) $(if $(QUICK),--quick) $(ARGS)

.PHONY: bench-parity
bench-parity: $(VENV)/.stamp-dev ## How often the parity doctor names a planted fault, and one where none is (SEED=n, QUICK=1)
	@$(PY) tests/bench/bench_parity.py --seed $(or $(SEED),1) $(if $(QUICK),--quick) $(ARGS)

.PHONY: powercut
powercut: $(VENV)/.stamp-dev ## 10,000 simulated power cuts on the store, and two stores that must lose (TRIALS=n)
	$(PY) tests/torture/powercut.py --trials $(or $(TRIALS),10000) $(ARGS)
	$(PY) tests/torture/powercut.py --trials 200 --control normal
	$(PY) tests/torture/powercut.py --trials 200 --control ack-early

.PHONY: torture
torture: $(VENV)/.stamp-dev ## Kill the service 1,000 times while bots send events, and one that must lose some (KILLS=n)
	$(PY) tests/torture/sigkill.py --kills $(or $(KILLS),1000) $(ARGS)
	$(PY) tests/torture/sigkill.py --kills 30 --control ack-early

.PHONY: torture-postgres
torture-postgres: $(VENV)/.stamp-dev ## The same on a PostgreSQL store, whose server dies as well, and two that must lose
	$(PY) tests/torture/sigkill.py --store postgres --kills $(or $(KILLS),200) $(ARGS)
	$(PY) tests/torture/sigkill.py --store postgres --kills 30 --control ack-early
	$(PY) tests/torture/sigkill.py --store postgres --kills 30 --control no-sync

.PHONY: replay-million
replay-million: $(VENV)/.stamp-dev ## A million events live, with restarts, and the same out of the log (EVENTS=n)
	$(PY) tests/torture/million.py --events $(or $(EVENTS),1000000) $(ARGS)

.PHONY: mutants
mutants: $(VENV)/.stamp-dev ## Break the gate, the stores and the lease in small ways: do the tests see it? (SAMPLE=n each)
	$(PY) tests/torture/mutants.py $(if $(SAMPLE),--sample $(SAMPLE)) $(ARGS)

.PHONY: bench-start
bench-start: $(VENV)/.stamp-dev ## From SIGKILL to the first word and the first right answer
	$(PY) tests/bench/bench_start.py $(ARGS)

.PHONY: alerts-torture
alerts-torture: $(VENV)/.stamp-dev ## Kill the service 200 times while it tells a flaky receiver of pauses (KILLS=n); two that must be found out
	$(PY) tests/torture/alerts.py --kills $(or $(KILLS),200) $(ARGS)
	$(PY) tests/torture/alerts.py --kills 60 --control alerts-late
	$(PY) tests/torture/alerts.py --kills 60 --control alerts-early
	$(PY) tests/torture/alerts.py --latency 300

.PHONY: faults
faults: $(VENV)/.stamp-dev ## Break a running service in every way we thought of; prints what came of each
	@$(PY) tests/torture/faults.py

# RUNS beside the model (tests/fuzz/stateful.py), N mutated requests, and schemathesis; ARGS='--only mutation --seed 5'.
.PHONY: fuzz
fuzz: $(VENV)/.stamp-dev ## A million mutated requests, schemathesis, and any order of calls beside a model (N=n RUNS=n)
	@$(PY) tests/fuzz/fuzz.py --requests $(or $(N),1000000) --runs $(or $(RUNS),10000) $(ARGS)

.PHONY: schedules
schedules: export PYTHONPATH = tests
schedules: $(VENV)/.stamp-dev ## 100,000 simulated schedules of service, network, clocks and bots, and twelve unsafe ones (SEED=n: print one)
	$(PY) tests/torture/schedules.py $(if $(SEED),--seed $(SEED),--schedules $(or $(SCHEDULES),100000)) $(ARGS)
	$(if $(SEED),,@for control in $$($(PY) tests/torture/schedules.py --list-controls); do \
		$(PY) tests/torture/schedules.py --schedules 400 --control $$control || exit 1; done)

.PHONY: soak
soak: $(VENV)/.stamp-dev ## An hour of ordinary work on the real service: memory, descriptors, errors; and one that leaks (MINUTES=n)
	$(PY) -u tests/torture/soak.py --minutes $(or $(MINUTES),60) $(ARGS)
	$(PY) -u tests/torture/soak.py --minutes 3 --streams 2 --rest 0.05 --control leak

.PHONY: pictures
pictures: $(VENV)/.stamp-dev ## Take the pictures of the documentation anew (needs chromium)
	$(PY) docs/pictures/make_report_picture.py
	$(PY) docs/pictures/make_detection_picture.py

.PHONY: screenshots
screenshots: $(VENV)/.stamp-dev ## Take the pictures of the page anew, from the demo (needs chromium)
	$(PY) docs/pictures/make_page_pictures.py

# --- look after --------------------------------------------------------------------------------------------------

# uv is used here only, in an environment of its own. Versions already locked stay as they are unless UPGRADE=1.
COMPILE = .venv-lock/bin/uv pip compile pyproject.toml --quiet --universal --generate-hashes --python-version 3.11 \
	--no-header --no-emit-index-url --no-emit-find-links $(if $(UPGRADE),--upgrade)

.PHONY: lock
lock: ## Choose the exact versions anew after a change in pyproject.toml (UPGRADE=1: the newest of everything)
	@[ -n "$(PYTHON)" ] || { echo "Locking needs Python 3.11, as make setup does." >&2; exit 1; }
	@[ -x .venv-lock/bin/uv ] || { "$(PYTHON)" -m venv .venv-lock && .venv-lock/bin/pip install -qq --disable-pip-version-check uv; }
	@$(COMPILE) --group build --group dev --output-file requirements-dev.lock >/dev/null
	@$(COMPILE) --group build --constraints requirements-dev.lock --output-file requirements.lock >/dev/null
	@sed -i.old '/^    #   -c requirements-dev.lock$$/d' requirements.lock && rm requirements.lock.old
	@for f in requirements.lock requirements-dev.lock; do \
		{ echo "# Written by 'make lock' from pyproject.toml; not by hand."; grep -v "^# Written by" $$f; } > $$f.new && mv $$f.new $$f; done
	@if grep -nHE 'https?://|index-url|find-links|file:' requirements.lock requirements-dev.lock || grep -nHF "$$PWD" requirements.lock requirements-dev.lock; then \
		echo "The lines above name an address or a folder of this machine; a lock file must not. Nothing was undone: take them out." >&2; exit 1; fi
	@echo "Locked: $$(grep -c '^[a-z]' requirements.lock) packages to run, $$(grep -c '^[a-z]' requirements-dev.lock) with the tools."

.PHONY: clean
clean: ## Remove what the checks and tests left behind (.venv and models/artifacts stay; to redo .venv, delete it)
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.* htmlcov dist build .venv-lock
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
