# make serve   install what is missing and serve the embedded default model (HOST, PORT, MODEL, ARGS)
# make test    install what is missing and run every test
# make check   lint, format and types, as CI does
# make format  what make check would have changed
# make bench   the comparisons that the README quotes
# make clean   remove what make made

HOST   ?= $(or $(CRITICRM_HOST),127.0.0.1)
PORT   ?= $(or $(CRITICRM_PORT),8000)
MODEL  ?= $(or $(CRITICRM_MODEL),default)
ARGS   ?=
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help serve test check format bench clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

serve: .venv/.serve
	.venv/bin/criticrm serve "$(MODEL)" --host $(HOST) --port $(PORT) $(ARGS)

# Two processes for the tests that start no engine; those that do, one after the other, have the machine to themselves.
# Exit status 5 is pytest's for a selection (ARGS) that holds none of either kind.
test: .venv/.dev
	OMP_NUM_THREADS=1 .venv/bin/pytest --numprocesses 2 --dist loadfile -m "not integration" $(ARGS) || [ $$? -eq 5 ]
	.venv/bin/pytest -m integration $(ARGS) || [ $$? -eq 5 ]

check: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/.dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/.serve
	.venv/bin/python benchmarks/run.py $(ARGS)

clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis

# A stamp is as new as its last complete installation.
.venv/.serve: pyproject.toml scripts/install.sh
	PYTHON=$(PYTHON) scripts/install.sh
	@touch $@

.venv/.dev: .venv/.serve
	@echo "== test tools"
	.venv/bin/pip install --quiet --editable '.[dev]'
	@touch $@
