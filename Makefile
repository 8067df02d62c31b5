# The daily commands. Everything happens in .venv, which the first of them makes from the hashed lock.

# Any Python from 3.11 to 3.14: make up PYTHON=/path/to/python3
PYTHON ?= python3
BIN := .venv/bin
LOGS := $(or $(RELEVO_HOME),.relevo)/logs

.DEFAULT_GOAL := help
.PHONY: help env setup up down status logs test test-unit chaos bench check fix lock

help: ## what can be done here
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 7))' 2>/dev/null || { \
	  echo "relevo needs Python 3.11 to 3.14; $(PYTHON) is missing or older. Install one, or name one: make up PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -I infra/stack/bootstrap.py

setup: env ## download all that is needed: packages and Kafka
	@$(BIN)/python -m infra.stack.jars

up: env ## start the local stack, or what is missing of it, and send one notification through it
	@$(BIN)/relevo up

down: ## end what `make up` started; the data stays
	@if [ -x $(BIN)/relevo ]; then $(BIN)/relevo down; else echo "Nothing was running."; fi

status: ## show what runs and whether it answers
	@if [ -x $(BIN)/relevo ]; then $(BIN)/relevo status; else echo "Nothing was started yet; make up starts it."; exit 1; fi

logs: ## follow the logs; of one process: make logs S=sender
	@tail -n 40 -F $(if $(S),$(LOGS)/$(S).log,$(LOGS)/*.log)

test: env ## run the whole suite against real servers of its own, beside a running stack
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-unit: env ## run the tests that need no server
	@$(BIN)/python -m pytest tests/unit

chaos: env ## kill and freeze everything under load, then count; ROUNDS=120 for the long one, SEED=n for one again
	@$(BIN)/python -m tests.chaos $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(BROKERS),--brokers $(BROKERS)) $(if $(REPORT),--report $(REPORT))

bench: env ## measure against Django, Celery and BullMQ in turns; QUICK=1, ROUNDS=n, PARTS="P1 P3", NOISY=1; GROWTH=1, SCALE=1, DISTANT=1
	@$(BIN)/python -m tests.bench $(if $(QUICK),--quick) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(PARTS),--parts "$(PARTS)") \
	  $(if $(GROWTH),--growth $(if $(MARKS),--marks "$(MARKS)")) $(if $(SCALE),--scale) $(if $(DISTANT),--distant) $(if $(NOISY),--noisy) $(if $(REPORT),--report $(REPORT))

check: env ## lint, format, types, import contracts, house rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/house

fix: env ## format, and mend what can be mended safely
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# The tool that makes the locks is no part of them: install `uv` by hand.
lock: ## make the hashed locks again from pyproject.toml
	uv pip compile --universal --python-version 3.11 --generate-hashes -q -o requirements/runtime.txt pyproject.toml
	uv pip compile --universal --python-version 3.11 --generate-hashes -q -c requirements/runtime.txt \
	  --group stack --group test -o requirements/dev.txt pyproject.toml
	uv pip compile --universal --python-version 3.11 --generate-hashes -q --group bench -o requirements/bench.txt
