# make demo    see real listings matched by the shipped model (ARGS=--once: no waiting, exit code says if it worked)
# make test    everything that must hold: lint, types, architecture, no known vulnerability, tests
# make audit   known vulnerabilities of the versions in constraints.txt (AUDIT=--required: fail if nobody can be asked)
# make sbom    sbom.cdx.json: every package and the weights, for whoever must know what is in it
# make soak    the long versions of some tests: minutes to an hour
# make serve   the API on http://127.0.0.1:8000
# make bench   measure against a plain service; writes docs/performance.md
# make bench-full   the same with 100,000 products, and every other benchmark: an hour or more (ARGS="--only growth": one of them)

VENV ?= .venv
EXTRAS ?= cpu,dev
PYTHON ?= python3
ARGS ?=
RUN = $(VENV)/bin/python
# more test processes than cores only wait for each other
WORKERS ?= 2
# nor do more threads: each test process has a core to itself
THREADS ?= 1

.PHONY: demo test serve lint types audit sbom unit soak bench bench-full install clean

install:
	@PYTHON=$(PYTHON) deploy/install.sh $(VENV) $(EXTRAS)

demo: install
	@$(RUN) samples/demo.py $(ARGS)

serve: install
	@$(RUN) -m app serve $(ARGS)

test: lint types audit unit

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports

types: install
	$(RUN) -m mypy

audit: install
	@$(RUN) deploy/audit.py $(AUDIT)

sbom: install
	deploy/sbom.sh $(VENV) model_store/default sbom.cdx.json

# in their own order: pytest-xdist would begin the files with the fewest tests last, and those take the longest
unit: install
	OMP_NUM_THREADS=$(THREADS) $(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		--cov --cov-report=term --cov-fail-under=90 $(ARGS)

soak: install
	OMP_NUM_THREADS=$(THREADS) $(RUN) -m pytest -m soak -s tests/soak $(ARGS)

bench: install
	$(RUN) -m tests.benchmarks $(ARGS)

bench-full: install
	$(RUN) -m tests.benchmarks.full $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info
