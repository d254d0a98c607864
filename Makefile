# The commands of this project; CONTRIBUTING.rst explains them. CI (.ci/run) calls the same ones.

PYTHON ?= .venv/bin/python
# More words for pytest or for the benchmark: make test ARGS="-k frames -x"
ARGS ?=
# Which benchmark: make bench BENCH=tensorflow_predict
BENCH ?= roundtrip

.PHONY: check env test lint format types docs build bench demo ci

check: lint types test docs

env:
	python3 -m venv .venv
	.venv/bin/python -m pip install -q -e ".[all]"

test:
	$(PYTHON) -m pytest $(ARGS)

lint:
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check

format:
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

types:
	$(PYTHON) -m mypy --strict bgpy

docs:
	$(PYTHON) -m sphinx -E -W --keep-going -n -q -b html docs docs/_build/html

build:
	rm -rf build dist
	$(PYTHON) -m build
	bash .ci/wheel $(PYTHON)

bench:
	$(PYTHON) benchmarks/$(BENCH).py $(ARGS)

demo:
	$(PYTHON) -m bgpy demo

ci:
	bash .ci/run
