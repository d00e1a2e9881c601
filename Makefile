# One command for each thing that people do here. Everything is installed into .venv, once: a stamp file in it is newer
# than pyproject.toml and constraints.txt. Variables: PYTHON (3.11 or newer), PIP_ARGS (more arguments for pip install),
# BASE (what `pr` compares with), TARGETS (of `run`), JOBS (stages of `run`, or test files of `test`, at a time).
PYTHON ?= python3
PIP_ARGS ?=
BASE ?= origin/main
export BASE # to the shell as a value, never as text of a command: a branch may have any name
TARGETS ?=
JOBS ?= 2

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check install -c constraints.txt $(PIP_ARGS)
DEPENDENCIES := pyproject.toml constraints.txt
# Stages call `python`, and DVC runs them in $SHELL, which need not be a POSIX shell.
ENVIRONMENT := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" SHELL=/bin/sh

.PHONY: help repro run report report-all verify verify-lock prune-lock profiles status ablations readme pr test bench clean tools
.DEFAULT_GOAL := help

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 22
	@echo 'Variables: PYTHON=python3.12 picks the interpreter, PIP_ARGS="..." goes to pip install,'
	@echo 'BASE=origin/main is what pr compares with, TARGETS="..." and JOBS=2 are of run, JOBS=2 of test.'

repro: $(VENV)/.installed  ## regenerate every embedded table and figure (what is up to date is not run again)
	@$(ENVIRONMENT) $(RUN) -m pipeline.project.dvc_child 0 --wait-for-lock repro dvc.yaml
	@$(RUN) -m pipeline.project.cli after-repro || true

run: $(VENV)/.installed  ## as repro, several stages at a time: make run JOBS=4 TARGETS="train figure"
	@$(ENVIRONMENT) $(RUN) -m pipeline.project.cli run $(TARGETS) --jobs $(JOBS)

report: repro  ## regenerate what is stale, and open the embedded report in the browser
	@$(RUN) -m pipeline.project.cli report open

report-all: $(VENV)/.installed  ## the three profiles side by side, from the committed tables
	@$(RUN) -m pipeline.project.cli report --all

verify: $(VENV)/.installed  ## rerun the embedded graph from nothing in a temporary clone, and compare
	@$(RUN) -m pipeline.project.cli verify

verify-lock: $(VENV)/.installed  ## are the dvc.lock files up to date? needs neither data nor cache
	@$(RUN) -m pipeline.project.cli verify-lock

prune-lock: $(VENV)/.installed  ## drop the entries of removed stages from the dvc.lock files
	@$(RUN) -m pipeline.project.cli prune-lock

profiles: $(VENV)/.installed  ## regenerate profiles/*/dvc.yaml from the root's
	@$(RUN) -m pipeline.project.cli profiles

status: $(VENV)/.installed  ## what is up to date, reproduced and missing, and how long the stages took
	@$(RUN) -m pipeline.project.cli status

ablations: $(VENV)/.installed  ## test the papers' claims on the embedded data: runs the ablations that are missing
	@$(ENVIRONMENT) $(RUN) -m pipeline.project.cli ablations

readme: $(VENV)/.installed  ## rewrite the README's section on what is reproduced, from the committed tables
	@$(RUN) -m pipeline.project.cli readme

pr: $(VENV)/.installed  ## what this branch changes in the results, as a comment: make pr BASE=origin/main
	@$(ENVIRONMENT) $(RUN) -m pipeline.project.cli pr "$$BASE"

test: $(VENV)/.installed-test  ## format, lint, types and tests
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(ENVIRONMENT) $(RUN) -m pyright
	$(ENVIRONMENT) OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist loadfile

bench: $(VENV)/.installed  ## speed, as ratios against the usual tools, measured in one run
	$(RUN) -m benchmarks.bench_neighbours
	$(RUN) -m benchmarks.bench_neighbours --memory --queries 10000
	$(RUN) -m benchmarks.bench_training
	$(RUN) -m benchmarks.bench_semisupervised
	$(RUN) -m benchmarks.bench_export
	$(RUN) -m benchmarks.bench_faces
	$(RUN) -m benchmarks.bench_grouping
	$(RUN) -m benchmarks.bench_features
	$(RUN) -m benchmarks.bench_svm
	$(RUN) -m benchmarks.bench_scores

clean:  ## remove what the tools cached; never data, the environment or the DVC cache
	rm -rf .pytest_cache .ruff_cache .hypothesis dvc_plots .work/verify build dist
	find pipeline stages tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: $(DEPENDENCIES) | tools
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: $(DEPENDENCIES) | tools
	$(PIP) -e '.[test]'
	@touch $(VENV)/.installed $@

# Git, a Python that is new enough, and the environment itself.
tools:
	@command -v git >/dev/null || { echo 'error: git was not found; install it: DVC keeps the reports in Git' >&2; exit 1; }
	@python='$(RUN)'; [ -x "$$python" ] || python='$(PYTHON)'; \
	command -v "$$python" >/dev/null || { \
	  echo "error: $$python was not found; install Python 3.11 or newer, or name it: make PYTHON=/path/to/python" >&2; exit 1; }; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $$python is $$("$$python" --version 2>&1); Python 3.11 or newer is needed: make PYTHON=/path/to/python" \
	    '(remove .venv first if it is that one)' >&2; exit 1; }
	@[ -x $(VENV)/bin/pip ] || $(PYTHON) -m venv $(VENV)
