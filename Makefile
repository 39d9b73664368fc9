# Two commands on a fresh machine: make demo, make test. All paths are relative: the folder's own may hold spaces.

CONSTRAINTS ?= constraints.txt
PYTHON ?=
ARGS ?=
ROOM ?=
NOTEBOOKS ?=

RUN := .venv/bin/python
PYTEST := $(RUN) -m pytest -n 4 --dist worksteal

export CONSTRAINTS PYTHON
# The environment of the person who calls must not leak into .venv.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
# Without bytecode each process compiles torch and Lightning again: 18 s of CPU instead of 6.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv demo quick test lowest slow long lint types check docs clean

help: ## say what there is
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  CONSTRAINTS=file  exact versions to install (now: $(CONSTRAINTS))"
	@echo "  PYTHON=command    interpreter for .venv (default: the best of 3.12 and up that is found)"
	@echo "  ROOM=name         make quick tests only tests/name"
	@echo "  ARGS='...'        passed on to the demo or to pytest"

venv: ## make or renew .venv
	@sh .ci/venv

demo: venv ## write the demo repository, train on it, write a picture
	$(RUN) train_example.py $(ARGS)

quick: venv ## run the tests without processes, servers and trainings (ROOM=fits: of one room)
	$(RUN) -m pytest -n logical --maxprocesses 8 --dist worksteal -m '(unit or repo) and not slow and not long' $(ARGS) $(if $(ROOM),tests/$(ROOM))

test: venv ## run the tests, but the slow ones
	$(PYTEST) -m 'not slow and not long' $(ARGS)

# .venv-lowest begins as a copy of .venv with hard links: most of its packages are there then, and compiled.
lowest: venv ## run the tests of planning with the lowest LSST packages that pyproject.toml allows, in .venv-lowest
	@mkdir -p build
	@[ -e .venv-lowest ] || cp -al .venv .venv-lowest 2>/dev/null || rm -rf .venv-lowest
	@sh .ci/lowest >build/lowest.txt
	@CONSTRAINTS=build/lowest.txt UV_COMPILE_BYTECODE=0 sh .ci/venv .venv-lowest
	$(subst .venv,.venv-lowest,$(PYTEST)) -m 'not slow and not long' tests/plan --ignore=tests/plan/test_assignment.py \
		--ignore=tests/plan/test_leaks.py --ignore-glob='tests/plan/test_grid*' --ignore=tests/plan/test_pixel_limits.py tests/remote/test_planning.py $(ARGS)

slow: venv ## run the slow tests: grids of ranks and resume points, kills, outages, memory, all examples of Hypothesis
	$(PYTEST) -m '(slow or hypothesis) and not long' --hypothesis-profile=all $(ARGS)

long: venv ## run the long tests, before a release: memory at full length, many kills
	$(PYTEST) -m long $(ARGS)

lint: venv ## ruff: habits and format; spelling; plain words
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m codespell_lib lsstcutouts configs docs tests benchmarks tools *.md *.py
	$(RUN) -m tools.words

types: venv ## mypy
	$(RUN) -m mypy --num-workers 2

check: lint types test lowest slow ## all that must pass before a commit

docs: venv ## build docs/_build/html/index.html and execute its notebooks (NOTEBOOKS=off: without)
	$(RUN) -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c "$(CONSTRAINTS)") -e '.[docs]'
	$(if $(NOTEBOOKS),DOCS_NOTEBOOKS=$(NOTEBOOKS)) $(RUN) -m sphinx -W -q -j 2 -d docs/_build/doctrees docs docs/_build/html
	@echo docs/_build/html/index.html

clean: ## remove .venv, caches and build products; the demo's data stay
	rm -rf .venv .venv-lowest build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/lsstcutouts-tests"
	find lsstcutouts tests configs -name __pycache__ -type d -prune -exec rm -rf {} +
