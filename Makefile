# make demo: train on embedded data and look at what comes out. make test: everything that must hold, but for what takes
# long; make test-all: that, too.
# make bench: how fast it is, beside a plain loop, pythae and JAX. make docs: the site, in build/site.
VENV ?= .venv
ifeq ($(OS),Windows_NT)
PYTHON ?= python
SCRIPTS := Scripts
else
PYTHON ?= python3
SCRIPTS := bin
endif
BIN := $(VENV)/$(SCRIPTS)
PYTEST := $(BIN)/pytest --numprocesses auto --dist worksteal

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
	$(PYTEST) -m "not slow"

pytest-slow: $(VENV)/ready
	$(PYTEST) -m slow tests

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/ready
	rm -rf build/site build/doctrees
	$(BIN)/sphinx-build -q -n -W --keep-going -c docs -d build/doctrees/en -D language=en docs/en build/site/en
	$(BIN)/sphinx-build -q -n -W --keep-going -c docs -d build/doctrees/zh -D language=zh_CN docs/zh build/site/zh
	cp docs/index.html build/site

bench: $(VENV)/ready $(VENV)-pythae/ready $(VENV)-jax/ready
	$(BIN)/python benchmarks/bench.py --pythae $(VENV)-pythae/$(SCRIPTS)/python --jax $(VENV)-jax/$(SCRIPTS)/python

$(VENV)-pythae/ready:
	$(PYTHON) -m venv $(VENV)-pythae
	$(VENV)-pythae/$(SCRIPTS)/pip install --quiet torch==2.13.0 pythae==0.1.2
	touch $@

$(VENV)-jax/ready:
	$(PYTHON) -m venv $(VENV)-jax
	$(VENV)-jax/$(SCRIPTS)/pip install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-pythae $(VENV)-jax build dist .mypy_cache .ruff_cache .hypothesis

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	touch $@
