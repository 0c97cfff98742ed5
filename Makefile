# Two commands set everything up from a fresh clone: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin
# Flower's telemetry and update check stay off in every target; lepton_fl switches them off by itself too.
export FLWR_TELEMETRY_ENABLED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-slow test-ray bench bench-peers check fix protos drift pins clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

.venv/installed: pyproject.toml constraints.txt hatch_build.py $(wildcard lepton_fl/*/*.c lepton_fl/*/*/*.[ch])
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed ## four hospitals train a private model; results in outputs/demo
	$(BIN)/lepton-sim evaluation=exact evaluation.every=1 output=outputs/demo

test: .venv/installed ## the test suite
	$(BIN)/python -m pytest

test-slow: .venv/installed ## the tests that take long
	$(BIN)/python -m pytest -m slow

# Every line stores a file; each can be run alone. What is not installed is left out, and says why.
BENCHES := link ledger log self_test heart secure_aggregation hospitals fairness float32_sums step simulation peers
MNIST ?= # the folder of its four files, for make bench MNIST=DIR

bench: .venv/installed ## measure again what bench/results holds, and write its table
	for name in $(BENCHES); do \
	  if [ -f bench/$$name.py ]; then echo "== $$name" && $(BIN)/python bench/$$name.py || exit 1; fi; \
	done
	if [ -n "$(MNIST)" ]; then $(BIN)/python bench/mnist.py $(MNIST); else echo "== mnist skipped: no MNIST=DIR given"; fi
	$(BIN)/python bench/table.py

.venv-peers/pfl/installed: constraints.txt
	$(PYTHON) -m venv .venv-peers/pfl
	.venv-peers/pfl/bin/pip install --quiet --constraint constraints.txt torch
	.venv-peers/pfl/bin/pip install --quiet 'pfl==0.6.0'
	touch $@

.venv-peers/ray/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-peers/ray
	.venv-peers/ray/bin/pip install --quiet --constraint constraints.txt torch
	.venv-peers/ray/bin/pip install --quiet --constraint constraints.txt --editable '.[ray]' pytest hypothesis
	touch $@

bench-peers: .venv/installed .venv-peers/pfl/installed .venv-peers/ray/installed ## the environments of bench/peers.py, and its figures
	$(BIN)/python bench/peers.py

test-ray: .venv-peers/ray/installed ## the tests of engine=ray and flwr run, where Ray is installed
	.venv-peers/ray/bin/python -m pytest -m 'slow or not slow' tests/test_ray_engine.py tests/test_flower_app.py

check: .venv/installed drift ## style, types, layers, generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	MYPYPATH=bench $(BIN)/mypy bench/*.py
	$(BIN)/python -m pytest tests/test_layers.py

fix: .venv/installed ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

protos: .venv/installed ## generate lepton_fl/v1 from proto/
	$(BIN)/python -m grpc_tools.protoc --proto_path=proto --python_out=. --pyi_out=. --grpc_python_out=. proto/lepton_fl/v1/*.proto

drift: .venv/installed # the committed code is what proto/ generates
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(BIN)/python -m grpc_tools.protoc --proto_path=proto --python_out="$$fresh" --pyi_out="$$fresh" --grpc_python_out="$$fresh" proto/lepton_fl/v1/*.proto && \
	diff --recursive --exclude=__pycache__ --exclude=__init__.py "$$fresh/lepton_fl/v1" lepton_fl/v1 || \
	{ echo "error: lepton_fl/v1 is not what proto/ generates; run make protos and commit"; exit 1; }

pins: .venv/installed ## write constraints.txt from what is installed
	(echo "# Exact versions that make installs with; regenerate with: make pins"; \
	 $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' | sort -f) > constraints.new
	mv constraints.new constraints.txt

clean: ## remove everything that was made here, but not results
	rm -rf .venv .venv-peers dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
