# Two commands do all the set-up on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export MPLBACKEND := Agg

.PHONY: demo test soak check bench bench-gpu clean

# Installs into a virtual environment of its own, with the versions that were tested.
$(BIN)/thriftnet: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(BIN)/thriftnet
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# Train on the bundled digits, evaluate on the sealed test split, predict, write the report.
demo: $(BIN)/thriftnet
	rm -rf demo
	$(BIN)/thriftnet train digits-demo --data digits --out demo/run
	$(BIN)/thriftnet evaluate demo/run --split test
	$(BIN)/python scripts/demo_images.py demo/images
	$(BIN)/thriftnet predict demo/run demo/images --out demo/predictions.csv --probabilities
	$(BIN)/thriftnet report demo/run --out demo/report.html
	@echo "The report: $(CURDIR)/demo/report.html"

# A process a core with one thread each: twice as fast as one after the other on two cores.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# The long form of the tests of reliability (docs/reliability.md), some six minutes.
soak: $(VENV)/.dev
	$(BIN)/python -m tests.soak.soak --out results/reliability.json

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What is stored in benchmarks/results is not measured again. DATA=PATH: on which time to accuracy is measured.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks --data $(or $(DATA),digits) $(BENCH_ARGS)

# One CUDA GPU; stops after nine minutes, the same command goes on. DATA=PATH: CIFAR-10.
bench-gpu: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gpu $(if $(DATA),--data $(DATA)) $(BENCH_ARGS)

clean:
	rm -rf $(VENV) demo build .pytest_cache .mypy_cache .ruff_cache
