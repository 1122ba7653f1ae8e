# make study: set everything up and run the first study.   make test: set everything up and run the tests.
# make prediction: train the population on which forecasts are tested (8 hours of one core in total), and analyse it. A run that
# fails is collected as failed, and the next runs continue. It stops if a study is stopped or refused.
PYTHON ?= python3
BIN := .venv/bin

PREDICTION := prefix-sums prefix-sums-rates small-sudoku chess chess-short

# The browser of the lab's tests: a system's Chromium or Chrome, which pip does not install.
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

.PHONY: study prediction test test-lab ci lint docs clean
study: .venv/installed
	$(BIN)/loopscope study configs/quick.yaml

# The exit status of a study is 1 if a run failed, 2 if it was refused, 75 if it was stopped, in which case the same command
# continues.
prediction: .venv/installed
	for name in $(PREDICTION); do \
		$(BIN)/python -m experiments.prediction run experiments/prediction/configs/$$name.yaml; status=$$?; \
		test $$status -le 1 || exit $$status; \
		$(BIN)/python -m experiments.prediction collect studies/prediction-$$name || exit $$?; \
	done
	$(BIN)/python -m experiments.prediction analyse
	$(BIN)/python -m experiments.prediction evidence

test: .venv/installed lint docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal
	@echo "The lab in a browser: make test-lab"

# Drives `loopscope lab` in a headless browser.
test-lab: .venv/installed
	@test -n "$(CHROMIUM)" || { echo "make test-lab needs a browser, and none is installed: apt-get install chromium" >&2; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/pytest browser_tests

# What CI runs: everything, in a browser too where the machine has one.
ci: test
	@if test -n "$(CHROMIUM)"; then $(MAKE) test-lab; \
	else echo "The lab was not tested in a browser, because none is installed: apt-get install chromium"; fi

# The site, in build/site. A broken link or a docstring that cannot be rendered is an error.
docs: .venv/installed
	$(BIN)/mkdocs build --quiet --strict

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The bound on torch in pyproject.toml keeps pip from installing a version that this package was not tested with.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
