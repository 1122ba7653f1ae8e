# make study: set everything up and run the first study.   make test: set everything up and run the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: study test lint clean
study: .venv/installed
	$(BIN)/loopscope study configs/quick.yaml

test: .venv/installed lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The bound on torch keeps pip from a build that this package was not tested with.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
