# make study: set everything up and run the first study.   make test: set everything up and run the tests.
# make prediction: train the population that forecasts are tested on (6 hours of one core in all), and analyse it. It goes on
# past runs that fail, which are results of their study and collected as such, and stops where a study was stopped or refused.
PYTHON ?= python3
BIN := .venv/bin

PREDICTION := prefix-sums prefix-sums-unseen small-sudoku chess chess-short

.PHONY: study prediction test lint docs clean
study: .venv/installed
	$(BIN)/loopscope study configs/quick.yaml

# A study ends with 1 if a run failed, with 2 if it was refused, with 70 if it crashed, with 75 if it was stopped: the same
# command goes on.
prediction: .venv/installed
	for name in $(PREDICTION); do \
		$(BIN)/loopscope study configs/prediction/$$name.yaml; status=$$?; test $$status -le 1 || exit $$status; \
		$(BIN)/loopscope study collect studies/prediction-$$name --into results/prediction/ledger.jsonl || exit $$?; \
	done
	$(BIN)/loopscope study analyse results/prediction

test: .venv/installed lint docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

# The site, in build/site; a broken link or a docstring that cannot be rendered is an error.
docs: .venv/installed
	$(BIN)/mkdocs build --quiet --strict

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
