# make serve      install what is missing and serve the embedded default model (HOST, PORT, MODEL, ARGS)
# make test       install what is missing and run every test
# make test-fast  unit tests alone, without those of the API, of trainings, of processes and of vLLM: a minute on two cores
# make check      lint, format and types, as CI does
# make format     what make check would have changed
# make demo       train a critic and a scalar reward model on arithmetic, and compare them: half an hour on two cores
# make page       build the playground's files from service/playground (needs npm)
# make bench      the comparisons that the README quotes
# make docs       the documentation as a site, in site/
# make clean      remove what make made

HOST   ?= $(or $(CRITICRM_HOST),127.0.0.1)
PORT   ?= $(or $(CRITICRM_PORT),8000)
MODEL  ?= $(or $(CRITICRM_MODEL),default)
ARGS   ?=
PYTHON ?= python3
# Engines that the tests start side by side: a GPU has memory for one.
ENGINES ?= $(if $(shell nvidia-smi -L 2>/dev/null),1,2)
# Side by side, none may bind its threads to the same core as the other, or compile what runs only briefly.
SIDE_BY_SIDE := $(if $(filter 1,$(ENGINES)),,OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind TORCH_COMPILE_DISABLE=1)

.DEFAULT_GOAL := help
.PHONY: docs help serve test test-fast check format demo page bench clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

serve: .venv/.serve
	.venv/bin/criticrm serve "$(MODEL)" --host $(HOST) --port $(PORT) $(ARGS)

# Exit status 5 is pytest's for a selection (ARGS) that holds none of either kind.
test: .venv/.dev
	OMP_NUM_THREADS=1 .venv/bin/pytest --numprocesses 2 --dist loadfile -m "not integration" $(ARGS) || [ $$? -eq 5 ]
	$(SIDE_BY_SIDE) .venv/bin/pytest --numprocesses $(ENGINES) --dist loadfile --no-loadscope-reorder -m integration $(ARGS) || [ $$? -eq 5 ]

test-fast: .venv/.dev
	OMP_NUM_THREADS=1 .venv/bin/pytest --numprocesses 2 --dist loadfile -m "not integration and not slow" tests/unit tests/golden $(ARGS)

check: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy examples/arithmetic/demo.py

format: .venv/.dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

demo: .venv/.serve
	.venv/bin/python examples/arithmetic/demo.py $(ARGS)

page:
	cd service/playground && npm ci --ignore-scripts && npm run check && npm run build

docs: .venv/.dev
	.venv/bin/mkdocs build --strict

bench: .venv/.serve
	.venv/bin/python benchmarks/run.py $(ARGS)

clean:
	rm -rf .venv dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis

# A stamp is as new as its last complete installation.
.venv/.serve: pyproject.toml scripts/install.sh
	PYTHON=$(PYTHON) scripts/install.sh
	@touch $@

# All at once where nothing is installed yet: pip works out what fits together once.
.venv/.dev: pyproject.toml scripts/install.sh
	PYTHON=$(PYTHON) scripts/install.sh .venv dev
	@touch .venv/.serve $@
