# make setup | test | quick | lint | graph | demo | families | examples | order | mutants | soak | matrix | dist | site | walk | deepspeed | webui | bench. Needs Python 3.12 or 3.13 and make; the rest goes into .venv.
PYTHON ?= $(shell for p in python3.12 python3.13 python3 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := .venv/bin

.PHONY: setup test quick lint graph demo families examples order mutants soak matrix dist site walk deepspeed webui bench clean

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

# The host's web UI in headless Chromium; minutes. Not part of `make test`. Needs npm, and a Chromium that is installed, or
# CHROMIUM=path. Pictures for docs/webui.md: WEBUI_IMAGES=$PWD/docs/images.
webui: setup .venv/webui/ready
	WEBUI=1 $(BIN)/python -m pytest -n 0 tests/webui

.venv/webui/ready: tests/webui/package.json constraints.txt
	@for name in "$(CHROMIUM)" chromium chromium-browser google-chrome; do command -v "$$name" >/dev/null && exit; done; \
		echo "No Chromium found. Install one (Debian: apt-get install chromium), or make webui CHROMIUM=path."; exit 1
	@command -v npm >/dev/null || { echo "npm is needed for the page's script files; none found on PATH."; exit 1; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt playwright
	mkdir -p $(@D)
	cp tests/webui/package.json $(@D)
	npm install --silent --no-audit --no-fund --no-package-lock --prefix $(@D)
	@touch $@

# DeepSpeed on two ranks of CPUs against plain data-parallel training; minutes. Not part of `make test`: where DeepSpeed is
# installed every run imports it, so it has a folder of its own.
deepspeed: setup .venv/deepspeed/ready
	DEEPSPEED=$(CURDIR)/.venv/deepspeed OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/runs/test_deepspeed.py

.venv/deepspeed/ready: constraints.txt
	DS_BUILD_OPS=0 $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --no-deps \
		--target $(@D) deepspeed hjson py-cpuinfo
	@touch $@

# Which of the example configs that the host ships take TwinFlow, docs/existing-configs.md, and one of each kind trained,
# shrunk to a tiny model, docs/examples-trained.md; some minutes.
examples: setup
	$(BIN)/python docs/generate_existing_configs.py
	$(BIN)/python -u -m testbed.examples

# Whether few-step quality orders what is known, three seeds, two families; ten minutes. `make test` takes one of each.
order: setup
	QUALITY_SEEDS=3 $(BIN)/python -m pytest tests/runs/test_quality_order.py

# Do the tests of the method and of the sampler notice small faults in them? A sample of 210 takes half an hour;
# ARGS="--seed 1" takes others, ARGS="--only roles.py" all of a module.
mutants: setup
	OMP_NUM_THREADS=1 $(BIN)/python -u -m testbed.mutants $(ARGS)

# Kills at any moment, a full disk, bad configurations, a thousand steps: an hour. What was seen goes into docs/reliability.md.
soak: setup
	SOAK=1 $(BIN)/python -m pytest -n 0 tests/soak $(ARGS)
	$(BIN)/python docs/generate_reliability.py

# Real installs of several versions of the host, docs/hosts.md: five minutes a version. ARGS="4.9.3 newest" takes these.
matrix: setup
	OMP_NUM_THREADS=1 $(BIN)/python -u -m testbed.matrix $(ARGS)

# The wheel and the sdist of a release in output/dist, with a bill of materials: installed in empty environments with the
# host alone and without it, the sdist unpacked elsewhere and tested; minutes. ARGS="built wheel" takes these stages.
dist: setup
	OMP_NUM_THREADS=1 $(BIN)/python -u -m testbed.dist $(ARGS)

# The documentation as a site, output/site; fails on a link that leads nowhere (with --quiet mkdocs counts none), and on a
# Chinese page that does not say so.
site: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[site]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@! grep -L '<html lang="zh"' $$(find output/site/zh -name '*.html') | grep . || { echo "not in Chinese by their lang"; exit 1; }

# From an empty folder to a picture, by the commands of docs/first-run.md, in new environments; writes docs/walk.md. Ten
# minutes, and four gigabytes from the package registry. Not part of `make test`.
walk: site
	$(BIN)/python -u -m testbed.dist built
	$(BIN)/python -u -m testbed.walk

# How near the pictures come, docs/benchmarks.md, two hours on two cores; an interrupted run resumes. Then what it costs,
# docs/performance.md: an hour on a quiet machine, and an hour and a half for the distance against time.
bench: setup
	$(BIN)/python -u -m benchmarks.digits
	$(BIN)/python -u -m benchmarks.sd3
	$(BIN)/python -u -m benchmarks.cost
	$(BIN)/python -u -m benchmarks.cost.growth
	$(BIN)/python -u -m benchmarks.cost.memory
	$(BIN)/python -u -m benchmarks.cost.off
	$(BIN)/python -u -m benchmarks.teacher_swap
	$(BIN)/python -u -m benchmarks.curves --seeds 3

clean:
	rm -rf .venv output
