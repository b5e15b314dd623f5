# make setup   an environment in .venv with everything but torch      (about a minute)
# make demo    the sample broadcast through the whole live path       (SPEED=8 for faster)
# make test    the whole test suite                                   (takes torch for the CPU)
# make check   linters, types, import rules
# make train-setup  torch for the CPU, for touchline train
# make bundle  train the shipped bundle again: make bundle DATA=…     (about an hour on two cores)
# make results train every model of both papers: make results DATA=…  (about an hour on two cores)
# make latency what a deadline costs in accuracy: make latency DATA=…  (about an hour on two cores)
# make contract     docs/asyncapi.json and docs/schemas, from the code's types
# make screenshots  the pictures of dashboard and overlay in docs/, from a real run   (about two minutes)

PYTHON ?= python3
SPEED ?= 1
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help setup train-setup demo test screenshots check bundle results latency contract clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

setup: $(VENV)/.runtime

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "touchline needs Python 3.11 or newer; $(PYTHON) is older. Try: make setup PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing the run-time set into $(VENV) …"
	@$(PIP) install -c constraints.txt -e '.[broker]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime deploy/install_torch.py
	@echo "installing torch for the CPU and the test tools …"
	@$(BIN)/python deploy/install_torch.py
	@$(PIP) install -c constraints.txt -e '.[broker,train,dev]'
	@touch $@

train-setup: $(VENV)/.dev

demo: setup
	@$(BIN)/touchline demo --speed $(SPEED)

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -n 2 --dist loadfile

screenshots: $(VENV)/.dev
	@TOUCHLINE_SCREENSHOTS=docs $(BIN)/python -m pytest -q -rP tests/end_to_end/test_video_to_pixels.py --timeout 240

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bundle: $(VENV)/.dev
	@test -n "$(DATA)" || { echo "say where the labelled matches are: make bundle DATA=…"; exit 2; }
	@$(BIN)/touchline train demo --data "$(DATA)" --out cache/front-ends
	@$(BIN)/touchline embed "$(DATA)" --bundle cache/front-ends --out cache/results/features
	@$(BIN)/touchline train small-hmtas-live --data cache/results/features --front-ends cache/front-ends \
		--look-ahead 0,1,2,4 --seed 2 --out bundles/demo
	@$(BIN)/touchline tune bundles/demo --data cache/results/features --deadline 5 --measure test

results: $(VENV)/.dev
	@test -n "$(DATA)" || { echo "say where the labelled matches are: make results DATA=…"; exit 2; }
	@$(BIN)/python -m benchmarks.results --data "$(DATA)"

latency: $(VENV)/.dev
	@test -n "$(DATA)" || { echo "say where the labelled matches are: make latency DATA=…"; exit 2; }
	@test -d cache/front-ends || $(BIN)/touchline train demo --data "$(DATA)" --out cache/front-ends
	@$(BIN)/python -m benchmarks.latency --data "$(DATA)"

contract: setup
	@$(BIN)/python -m streamer.contract docs

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
