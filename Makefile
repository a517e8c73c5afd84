# Every target does its own set-up: a virtual environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
# Tiny models are many times faster on one thread than on several.
export OMP_NUM_THREADS ?= 1

.PHONY: mini mini-full mini-models paper-mini study-healing test test-slurm check recheck report bench upstream

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

# A real Slurm on this machine; needs root and Debian's packages.
test-slurm: .venv/workflow
	PYTHON=$(BIN)/python workflow/slurm/test.sh

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile tests

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
	$(BIN)/python -m pip install --quiet -e '.[workflow]'
	touch $@

.venv/ready: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[report,mini,parquet,dev]'
	touch $@
