# make setup | test | quick | lint | graph | demo | families | bench. Needs Python 3.12 or 3.13 and make; the rest goes into .venv.
PYTHON ?= $(shell for p in python3.12 python3.13 python3 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := .venv/bin

.PHONY: setup test quick lint graph demo families bench clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt startup/simpletuner_twinflow.pth startup/simpletuner_twinflow.start
	@test -n "$(PYTHON)" || { echo "Python 3.12 or 3.13 is needed; none found on PATH."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^uv==' constraints.txt)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[host,demo,test]'
	@touch $@
	@echo "environment ready in .venv"

test: setup
	$(BIN)/python -m pytest

# What starts no command of the host: a minute or two.
quick: setup
	$(BIN)/python -m pytest -m "not host"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# Who imports whom, package by package, as Graphviz reads it; fails if there is a circle.
graph: setup
	@for package in $$(find simpletuner_twinflow -name __init__.py -exec dirname {} + | sort | tr / .); do \
		$(BIN)/import-linter drawgraph $$package || exit; done
	$(BIN)/lint-imports --no-logo --contract circles

demo: setup
	$(BIN)/python -u -m demo.run

# A minute or two a family; NAMES="sana wan" takes these only.
families: setup
	$(BIN)/python -u -m testbed.families $(NAMES)

# Two hours on two cores; an interrupted run resumes.
bench: setup
	$(BIN)/python -u -m benchmarks.digits
	$(BIN)/python -u -m benchmarks.sd3

clean:
	rm -rf .venv output
