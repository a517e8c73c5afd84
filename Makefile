# Every target does its own set-up: a virtual environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
# `make mini TORCH=cpu`, in a clone without .venv: torch without CUDA, which is
# two thirds of what is installed. A release's +cpu goes before the plain one.
PIP = $(BIN)/python -m pip install --quiet $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)
export HF_HUB_OFFLINE ?= 1
# Tiny models are many times faster on one thread than on several.
export OMP_NUM_THREADS ?= 1

.PHONY: mini mini-full mini-models paper-mini study-healing real test soak quick test-slurm check recheck report bench docs upstream

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
# Of `make -n` in a clone where nothing is installed yet, which installs nothing.
SAY = The plan is made by snakemake, which is not installed here yet: make .venv/workflow, then make -n $@ again.
NOT_YET = $(if $(DRY),test -e .venv/workflow || { echo "$(SAY)"; exit 0; };)
paper-mini: .venv/workflow
	+@$(NOT_YET) $(BIN)/python -m snakemake -s workflow/Snakefile --profile workflow/profiles/local --config study=workflow/config/paper-mini.yaml $(DRY) $(ARGS)

# Ways to heal and to choose layers, compared on the mini decoders; 90 minutes
# on two cores, goes on where it stopped.
study-healing: .venv/workflow
	+@$(NOT_YET) $(BIN)/python -m snakemake -s workflow/Snakefile --profile workflow/profiles/local --config study=workflow/config/healing.yaml $(DRY) $(ARGS)

# Real models and voices: Whisper-base, SmolLM2-135M, speechocean762. Some
# three hours of two cores, goes on where it stopped. What is there already:
# `make real REAL_MODELS=DIR REAL_DATA=DIR`, see workflow/real_data.py.
real: export REAL_MODELS := $(REAL_MODELS)
real: export REAL_DATA := $(REAL_DATA)
real: export HF_HUB_OFFLINE := $(if $(REAL_MODELS),1,0)
real: .venv/workflow
	+$(BIN)/python -m snakemake -s workflow/Snakefile --profile workflow/profiles/local --config study=workflow/config/real.yaml $(DRY) $(ARGS)

# A real Slurm on this machine; needs root and Debian's packages.
test-slurm: .venv/workflow
	PYTHON=$(BIN)/python workflow/slurm/test.sh

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile tests

# Faults injected and counted: `make soak SOAK=quick`, five minutes of two cores,
# or SOAK=full, under an hour; ARGS="--only kills --seed 2".
soak: SOAK ?= quick
soak: .venv/ready
	$(BIN)/python tests/soak $(if $(filter full,$(SOAK)),--full) $(ARGS)

# A few small tests on another Python: `make quick PYTHON=python3.13`.
quick: BIN := .venv-quick/bin
quick: .venv-quick/ready
	$(BIN)/speechllm --version
	$(BIN)/python -m pytest -m 'not slow' tests/core/test_audio_formats.py tests/core/test_prompt.py tests/core/test_scoring.py tests/tools/test_hparams.py tests/tools/test_packaged.py

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

# The pages as a site in site/; a link that leads nowhere is an error.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --clean

bench: .venv/ready
	$(BIN)/python -m benchmarks.run

upstream: .venv/ready
	@test -n "$(SPEECHBRAIN)" || { echo "make upstream SPEECHBRAIN=DIR: a checkout of SpeechBrain's develop branch"; exit 2; }
	$(BIN)/python -m upstream $(SPEECHBRAIN) $(ARGS)

.venv/workflow: .venv/ready
	$(PIP) -e '.[workflow]'
	touch $@

.venv/docs: .venv/ready
	$(PIP) -e '.[docs]'
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
