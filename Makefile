# Two commands on a fresh machine: make demo, make test. All paths are relative: the folder's own may hold spaces.

CONSTRAINTS ?= constraints.txt
PYTHON ?=
ARGS ?=

RUN := .venv/bin/python

export CONSTRAINTS PYTHON
# The environment of the person who calls must not leak into .venv.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv demo test lint types check docs clean

help: ## say what there is
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  CONSTRAINTS=file  exact versions to install (now: $(CONSTRAINTS))"
	@echo "  PYTHON=command    interpreter for .venv (default: the best of 3.12 and up that is found)"
	@echo "  ARGS='...'        passed on to the demo or to pytest"

venv: ## make or renew .venv
	@sh .ci/venv

demo: venv ## write the demo repository, train on it, write a picture
	$(RUN) train_example.py $(ARGS)

test: venv ## run the tests
	$(RUN) -m pytest -n 3 --dist worksteal $(ARGS)

lint: venv ## ruff: habits and format; plain words
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m tools.words

types: venv ## mypy
	$(RUN) -m mypy

check: lint types test ## all that must pass before a commit

docs: venv ## build docs/_build/index.html
	$(RUN) -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c "$(CONSTRAINTS)") -e '.[docs]'
	$(RUN) -m sphinx -W -q docs docs/_build
	@echo docs/_build/index.html

clean: ## remove .venv, caches and build products; the demo's data stay
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find lsstcutouts tests configs -name __pycache__ -type d -prune -exec rm -rf {} +
