# Everything a person types. `make` alone explains itself.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test bench docs lint clean

PYTHON ?= python3
TRIALS ?= 1
SHORT ?=
PYTEST_ARGUMENTS ?=
ENV_PYTHON := .venv/bin/python

# A Python that somebody chose is used or refused; the default may be replaced by a better one.
SETUP = $(PYTHON) scripts/setup.py $(if $(filter file default,$(origin PYTHON)),,--this-python)
# With ROS sourced, what colcon built is found through the environment; with the wheels, at once.
WITH_ROS = $(if $(and $(ROS_DISTRO),$(AMENT_PREFIX_PATH)),source .venv/local_setup.bash &&,)

# Packages are installed without bytecode (setup): where Python may not write it either, every process
# would compile all that it imports, torch and transformers included, for a quarter of a minute.
unexport PYTHONDONTWRITEBYTECODE

# Set by the ROS wheels in every process below a Python of theirs; here it would mean another one.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

help:
	@echo "make setup   virtual environment, packages and ROS workspace (PYTHON=python3.12 to choose)"
	@echo "make demo    setup, then the whole robot graph on a simulated arm; TRIALS=n, SHORT=1"
	@echo "make test    setup with training and test packages, then lint and all tests"
	@echo "make bench   speed of the simulation, one line of JSON"
	@echo "make docs    the documentation, in build/docs"
	@echo "make lint    ruff, mypy and the import rules"
	@echo "make clean   remove the virtual environment and caches; results in runs/ stay"

setup:
	@$(SETUP) sim robot server

demo: setup
	@$(WITH_ROS) $(ENV_PYTHON) -m evaluation demo --trials $(TRIALS) $(if $(SHORT),--short)

test:
	@$(SETUP) sim robot server training dev
	@$(MAKE) --no-print-directory lint
	@$(WITH_ROS) $(ENV_PYTHON) -m pytest -m "not manual" $(PYTEST_ARGUMENTS)

bench: setup
	@$(ENV_PYTHON) -m simulation.bench

docs:
	@$(SETUP) sim robot server training docs
	@$(WITH_ROS) NO_MKDOCS_2_WARNING=1 $(ENV_PYTHON) -m mkdocs --quiet build --strict
	@echo "documentation: build/docs/index.html"

lint:
	@test -x .venv/bin/ruff || $(SETUP) sim robot server dev
	$(ENV_PYTHON) -m ruff check .
	$(ENV_PYTHON) -m mypy
	.venv/bin/lint-imports

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
