# Every target does its own set-up: a virtual environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
# `make mini TORCH=cpu`, in a clone without .venv: torch without CUDA, which is
# two thirds of what is installed. A release's +cpu goes before the plain one.
PIP = $(BIN)/python -m pip install --quiet $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)
export HF_HUB_OFFLINE ?= 1
# Tiny models are many times faster on one thread than on several.
export OMP_NUM_THREADS ?= 1

.PHONY: mini mini-full mini-models paper-mini study-healing test quick test-slurm check recheck report bench upstream

mini: .venv/ready
	$(BIN)/python -m speechllm.study.local workflow/config/mini.yaml

mini-full: .venv/ready
	$(BIN)/python -m speechllm.study.local workflow/config/mini-full.yaml

# Mini decoders that are missing; the package ships all but the one whose
# redundant layers stay together. A quarter of an hour of one core.
mini-models: .venv/ready
	$(BIN)/python -m speechllm.mini_world.pretrain --missing mini-qwen2-8 mini-llama-8 mini-qwen2-block

# All six claims in miniature; goes on where it stopped. `make -n paper-mini`
# shows the plan, ARGS go to snakemake.
DRY := $(if $(findstring n,$(firstword -$(MAKEFLAGS))),-n)
paper-mini: .venv/workflow
	+$(BIN)/python -m snakemake -s workflow/Snakefile --profile workflow/profiles/local --config study=workflow/config/paper-mini.yaml $(DRY) $(ARGS)

# Ways to heal and to choose layers, compared on the mini decoders; 90 minutes
# on two cores, goes on where it stopped.
study-healing: .venv/workflow
	+$(BIN)/python -m snakemake -s workflow/Snakefile --profile workflow/profiles/local --config study=workflow/config/healing.yaml $(DRY) $(ARGS)

# A real Slurm on this machine; needs root and Debian's packages.
test-slurm: .venv/workflow
	PYTHON=$(BIN)/python workflow/slurm/test.sh

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile tests

# A few small tests on another Python: `make quick PYTHON=python3.13`.
quick: BIN := .venv-quick/bin
quick: .venv-quick/ready
	$(BIN)/speechllm --version
	$(BIN)/python -m pytest -m 'not slow' tests/core/test_prompt.py tests/core/test_scoring.py tests/tools/test_hparams.py tests/tools/test_packaged.py

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/yamllint -c .yamllint.yaml hparams recipes workflow
	$(BIN)/codespell benchmarks docs hparams recipes speechbrain_ext speechllm tests tools upstream workflow *.md *.py

# Every figure of README and docs, made again from the committed runs.
recheck: .venv/ready
	$(BIN)/python -m speechllm.report.recheck

report: .venv/ready
	$(BIN)/python -m speechllm.report $(or $(RESULTS),results/mini)

bench: .venv/ready
	$(BIN)/python -m benchmarks.run

upstream: .venv/ready
	@test -n "$(SPEECHBRAIN)" || { echo "make upstream SPEECHBRAIN=DIR: a checkout of SpeechBrain's develop branch"; exit 2; }
	$(BIN)/python -m upstream $(SPEECHBRAIN) $(ARGS)

.venv/workflow: .venv/ready
	$(PIP) -e '.[workflow]'
	touch $@

.venv/ready: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) -e '.[report,mini,parquet,dev]'
	touch $@

.venv-quick/ready: pyproject.toml setup.py
	$(PYTHON) -m venv .venv-quick
	$(PIP) --no-compile -e ".[ja,ko]" pytest
	touch $@
