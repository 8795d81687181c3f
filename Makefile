# make demo            install what training needs, and train a KAT and a ViT on real images
# make test            install the rest, and run the tests
# make test-core       install and run what a change to kat/ops or kat/nn needs
# make coverage        the share of kat/ that the fast tests run
# make docs            build the documentation site into build/site, its tutorials run (needs npm)
# make gpu-report      check and measure everything on one GPU, 20 minutes; no .venv is needed
# make wheel           build sdist and wheel into dist/, and test the wheel where it is installed
# make release-check   all that a release needs except the upload; hours, and 30 GB of disk
#
# All of it lives in .venv; nothing is installed outside this folder.
#   PYTHON=python3.12        another interpreter, 3.11 or newer
#   TORCH_INDEX=URL          another index for torch (empty: pip's own)
#   CONSTRAINTS=FILE         versions for pip, as .github/constraints.txt has those of CI
#   PEERS="NAME=PATH ..."    published kernels that gpu-report compares with
#   OPTIONS="--stand-in"     options of gpu-report, see benchmarks/gpu_report.py --help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LIBRARY := $(VENV)/.library
CORE := $(VENV)/.core
READY := $(VENV)/.ready
TOOLS := $(VENV)/.tools
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	$(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
DEMO_OUT ?= runs/demo

# A machine without an NVIDIA GPU gets the CPU build, a tenth of the size.
HAS_GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo yes)
ifeq ($(HAS_GPU),yes)
TORCH_INDEX ?=
else
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif

# The GPU kernels without a GPU, interpreted, and compiled and emulated. Triton reads the switch on
# import, so each is a process of its own. Triton exists for Linux only.
KERNELS := tests/ops/triton/interpreted.py tests/ops/triton/interpreted_gated.py
INTERPRETED = TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n auto $(KERNELS)
EMULATED = $(BIN)/python -m pytest -q -n auto -p tests.ops.triton.emulated -m "release or not release"

.PHONY: help setup tools demo test test-core coverage docs gpu-report wheel has-repository release-check lint clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -n 15

setup: $(READY)

$(LIBRARY): EXTRA := plot
$(CORE): EXTRA := dev-core
$(LIBRARY) $(CORE): pyproject.toml scripts/setup.sh
	@EXTRA="$(EXTRA)" PYTHON="$(PYTHON)" VENV="$(VENV)" TORCH_INDEX="$(TORCH_INDEX)" sh scripts/setup.sh
	@touch $@

$(READY): $(LIBRARY)
	@echo "installing what tests, pages and checks need (a few minutes the first time)"
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $(CORE) $@

tools: $(TOOLS)

$(TOOLS): $(READY)
	@$(PIP_INSTALL) --editable '.[release]'
	@touch $@

demo: $(LIBRARY)
	$(BIN)/python examples/compare_models.py --config digits \
		--models kat_micro_patch2_8 vit_micro_patch2_8 --out $(DEMO_OUT) --overwrite
	@echo "One seed decides nothing: five seeds of both are in docs/results/models.md, under Handwritten digits."

test: $(READY)
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder
ifeq ($(shell uname),Linux)
	$(INTERPRETED)
	$(EMULATED) @tests/ops/triton/emulated.txt
endif

test-core: $(CORE)
	$(BIN)/ruff check kat/ops kat/nn tests/ops tests/nn
	$(BIN)/mypy kat/ops kat/nn
	$(BIN)/python -m pytest -q -n auto -m "not slow" tests/ops tests/nn

coverage: $(READY)
	$(BIN)/python -m pytest -q -n auto -m "not slow" --cov=kat --cov-fail-under=85

# By PYTHON if the command line names it, else by .venv if there is one.
gpu-report:
	$(or $(if $(filter command,$(origin PYTHON)),$(PYTHON)),$(wildcard $(BIN)/python),$(PYTHON)) \
		benchmarks/gpu_report.py $(if $(PEERS),--peers $(PEERS)) $(OPTIONS)

wheel: $(TOOLS)
	$(BIN)/python scripts/check_wheel.py --out dist

# An index shows README alone, so its links need the address of the sources.
has-repository:
	@grep -q '^Repository = ' pyproject.toml || { \
		echo 'pyproject.toml: add Repository = "https://...", the address of the sources, to [project.urls]'; \
		exit 1; \
	}

release-check: has-repository $(TOOLS) lint docs
	$(BIN)/python -m pytest -q -n auto --dist load -m release -rA
	$(INTERPRETED) -m release
	$(EMULATED) $(KERNELS) tests/ops/triton/checked.py
	$(BIN)/zizmor --offline .github
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms \
		.github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(PIP_INSTALL) --editable '.[all]'
	$(BIN)/python scripts/licenses.py all
	$(BIN)/python -m pytest -q -m "release or slow" tests/scripts/test_kernel_hub.py
	rm -rf dist
	$(BIN)/python scripts/check_wheel.py --out dist -m ""
	$(BIN)/python scripts/version_matrix.py dist/*.whl --csv benchmarks/results/version_matrix.csv

docs: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
