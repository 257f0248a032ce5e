# Everything here makes its own environment in .venv; no other step is needed.
PYTHON ?= python3
READY = .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench bench-laion bench-refine tiny clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	@echo "setting up .venv: about 6 GB with torch, a minute or more"
	.venv/bin/python -m pip install --disable-pip-version-check --editable '.[test]'
	@touch $@

demo: $(READY)  ## load, search, label and refine on the embedded engine, offline; results in demo-output/
	.venv/bin/vdx demo

test: $(READY)  ## run the tests
	.venv/bin/python -m pytest

lint: $(READY)  ## check style
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

bench: $(READY)  ## measure; results in tests/benchmarks/results/
	.venv/bin/python -m tests.benchmarks.run

bench-laion: $(READY)  ## measure loading LAION's files against the published recipe (7 minutes, 9 GB of memory)
	.venv/bin/python -m tests.benchmarks.laion

bench-refine: $(READY)  ## measure refinement with a simulated user (7 minutes); DATA=rows.parquet TEXTS=texts.parquet for another set
	.venv/bin/python -m tests.benchmarks.refinement $(if $(DATA),--data $(DATA) --texts $(TEXTS))

tiny: $(READY)  ## train the bundled model again from its seed (about 28 minutes on 2 cores)
	.venv/bin/python -m vdx_udf.tiny.train

clean:  ## remove the environment and the demo's output
	rm -rf .venv demo-output build dist .pytest_cache .ruff_cache .hypothesis
