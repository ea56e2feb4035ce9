# Set-up is incremental: the first call makes .venv, later ones start at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Most of the tests wait: two at a time take half as long.
JOBS ?= 2
SOURCES := setup.cfg pyproject.toml $(shell find katzentwist twisted -name '*.py' 2>/dev/null) \
	$(shell find native -name '*.rs' -o -name 'Cargo.*' 2>/dev/null | grep -v /target/)
EXTRAS := postgres,web,quic,test

.PHONY: demo testnet test lint bench clean

demo: $(VENV)/installed.stamp
	$(BIN)/katzentwist testnet --ping 5 --exit

testnet: $(VENV)/installed.stamp
	$(BIN)/katzentwist testnet

test: $(VENV)/tests.stamp
	$(BIN)/python -m twisted.trial -j$(JOBS) tests

lint: $(VENV)/tools.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The package goes into the environment whole, so that its commands work from any folder.
$(VENV)/installed.stamp: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet '.[postgres,web,quic]'
	touch $@

# Tests run in the tree: the native module is built in place, beside the code that they import.
$(VENV)/tests.stamp: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

$(VENV)/tools.stamp: | $(VENV)/tests.stamp
	$(BIN)/python -m pip install --quiet ruff mypy mypy-zope types-toml
	touch $@

bench: $(VENV)/tests.stamp
	$(BIN)/python benchmarks/sphinx.py

clean:
	rm -rf $(VENV) build dist *.egg-info native/target _trial_temp* .hypothesis
