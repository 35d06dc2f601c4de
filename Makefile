# h5ml: `make demo` shows it, `make test` checks it. Both make the virtual environment first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-long test-dft lint format bench clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP) lint
	$(BIN)/python -m pytest -m "not long" -n 2 --dist worksteal

test-long: $(STAMP) lint
	H5ML_TEST_LONG=1 $(BIN)/python -m pytest

# Quantum ESPRESSO and CP2K for real: needs Debian's quantum-espresso, quantum-espresso-data and cp2k; skips without.
test-dft: $(STAMP)
	$(BIN)/python -m pytest tests/compute/levels/test_programs.py -rs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m benchmarks

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo_output
