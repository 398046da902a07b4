# make demo: train on embedded data and look at what comes out. make test: what must hold. make test-all: long laws, too.
# make bench: how fast it is, beside a plain loop and pythae. make docs: the site, in build/site.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test test-all lint types pytest pytest-slow format clean bench docs

demo: $(VENV)/ready
	$(BIN)/allegory demo

test: lint types pytest

test-all: test pytest-slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

pytest: $(VENV)/ready
	$(BIN)/pytest --numprocesses auto --dist worksteal -m "not slow"

pytest-slow: $(VENV)/ready
	$(BIN)/pytest --numprocesses auto --dist worksteal -m slow

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/ready
	rm -rf build/site build/doctrees
	$(BIN)/sphinx-build -q -n -W --keep-going -c docs -d build/doctrees/en -D language=en docs/en build/site/en
	$(BIN)/sphinx-build -q -n -W --keep-going -c docs -d build/doctrees/zh -D language=zh_CN docs/zh build/site/zh
	cp docs/index.html build/site

bench: $(VENV)/ready $(VENV)-pythae/ready
	$(BIN)/python benchmarks/bench.py --pythae $(VENV)-pythae/bin/python

$(VENV)-pythae/ready:
	$(PYTHON) -m venv $(VENV)-pythae
	$(VENV)-pythae/bin/pip install --quiet torch==2.13.0 pythae==0.1.2
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-pythae build dist .mypy_cache .ruff_cache .hypothesis

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	touch $@
