# Everything here makes its own environment in .venv; no other step is needed.
# With TORCH_INDEX=https://download.pytorch.org/whl/cpu, torch comes without CUDA's libraries, 5 GB less.
export PYTHON ?= python3
export TORCH_INDEX
# What the demo and the commands need, and what the tests and the comparing benchmarks need beside it: every package with its version and hashes.
DEMO_LOCK = .ci/requirements-demo.txt
LOCK = .ci/requirements.txt
BENCH_LOCK = .ci/requirements-bench.txt
# The programs that embed, which `make bench` compares with: two environments, since infinity-emb needs older transformers.
PEERS_LOCK = .ci/requirements-peers.txt
INFINITY_LOCK = .ci/requirements-infinity.txt
READY = .venv/.ready
TESTABLE = .venv/.testable
COMPARABLE = .venv/.comparable
PEERS = .venv-peers/.ready .venv-infinity/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-server test-versions lint docs torture bench bench-search bench-laion bench-refine bench-explorer bench-thumbnails bench-mistakes bench-clusters bench-health bench-regions bench-shards lock audit tiny clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(READY): pyproject.toml $(DEMO_LOCK)
	@.ci/setup $(DEMO_LOCK)
	@touch $@

$(TESTABLE): pyproject.toml $(LOCK) | $(READY)
	@.ci/setup $(LOCK)
	@touch $@

$(COMPARABLE): pyproject.toml $(BENCH_LOCK) | $(TESTABLE)
	@.ci/setup $(BENCH_LOCK)
	@touch $@

# What cannot be installed has a row in the benchmark that says why, and is tried again the next time.
.venv-%/.ready: .ci/requirements-%.txt .ci/peers | $(TESTABLE)
	@.ci/peers .venv-$* $< && touch $@ || true

demo: $(READY)  ## load, search, label and refine on the embedded engine, offline; results in demo-output/
	.venv/bin/vdx demo

PYTEST = .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test: $(TESTABLE)  ## run the tests, two files at a time (minutes)
	$(PYTEST) -m "not long"

test-all: $(TESTABLE)  ## run all tests, with those that take long and find the rare
	$(PYTEST)

SUITE = tests/sql/test_sql.py tests/encoder/test_functions.py tests/sql/test_refine.py tests/sql/test_curation.py tests/encoder/test_native.py tests/commands/test_load.py tests/sql/test_datasets.py

test-server: $(TESTABLE)  ## run the server's tests and the SQL suite on containers of docker/; fails where no Docker engine answers
	VDX_REQUIRE_DOCKER=1 .venv/bin/python -m pytest tests/server
	VDX_REQUIRE_DOCKER=1 .venv/bin/python -m pytest --engine docker $(SUITE)

test-versions: $(TESTABLE)  ## run every SQL object's example on the engines of earlier releases (10 minutes, 1 GB of downloads)
	.venv/bin/python -m tests.sql.versions

docs: $(TESTABLE)  ## build the reference documentation in docs-output/
	.venv/bin/python -m vdx_udf.commands.reference docs-output/pages
	.venv/bin/sphinx-build -C -W -q -D extensions=myst_parser -D myst_heading_anchors=3 -D project=vdx-udf docs-output/pages docs-output/html
	@echo "docs-output/html/index.html"

lint: $(TESTABLE)  ## check style
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

torture: $(TESTABLE)  ## faults, load and hostile input, the long form (45 minutes); table in tests/benchmarks/results/
	FUZZ_EXAMPLES=20000 .venv/bin/python -m pytest tests/encoder/test_hostile.py
	.venv/bin/python -m tests.torture

bench: $(TESTABLE) $(PEERS)  ## measure beside the documented UDFs and programs that embed (26 minutes); results in tests/benchmarks/results/
	.venv/bin/python -m tests.benchmarks.run

bench-search: $(COMPARABLE)  ## measure searches beside LanceDB, faiss, usearch and pgvector (11 minutes); ROWS=25000 for one size
	.venv/bin/python -m tests.benchmarks.search

bench-laion: $(TESTABLE)  ## measure loading LAION's files against the published recipe (7 minutes, 9 GB of memory)
	.venv/bin/python -m tests.benchmarks.laion

bench-refine: $(TESTABLE)  ## measure refinement with a simulated user (10 minutes); DATA=rows.parquet TEXTS=texts.parquet for another set
	.venv/bin/python -m tests.benchmarks.refinement $(if $(DATA),--data $(DATA) --texts $(TEXTS))

bench-mistakes: $(COMPARABLE)  ## measure how wrong labels are found beside cleanlab (10 minutes); DATA=rows.parquet for another set beside
	.venv/bin/python -m tests.benchmarks.mistakes $(if $(DATA),--data $(DATA))

bench-clusters: $(TESTABLE)  ## measure clusters against known labels, beside scikit-learn (2 minutes); DATA=rows.parquet for another set beside
	.venv/bin/python -m tests.benchmarks.clusters $(if $(DATA),--data $(DATA))

bench-health: $(COMPARABLE)  ## measure what is odd about photographs beside cleanvision (1 minute)
	.venv/bin/python -m tests.benchmarks.health

bench-regions: $(TESTABLE)  ## measure small things in large pictures, whole pictures beside their parts (15 minutes)
	.venv/bin/python -m tests.benchmarks.regions

bench-explorer: $(TESTABLE)  ## measure the explorer page in a browser over 25,000 pictures (5 minutes)
	.venv/bin/python -m tests.benchmarks.explorer

bench-thumbnails: $(TESTABLE)  ## measure thumbnails beside a loop over Pillow, and the explorer's first screen of 100 (2 minutes)
	.venv/bin/python -m tests.benchmarks.thumbnails

bench-shards: $(TESTABLE)  ## measure index builds and searches by rows and by shards (4 to 12 minutes)
	.venv/bin/python -m tests.benchmarks.shards

lock:  ## pin the newest versions that pyproject.toml allows (needs uv)
	printf 'hatchling\neditables\n' | uv pip compile pyproject.toml - --extra test --universal --python-version 3.10 --upgrade \
		--generate-hashes --custom-compile-command "make lock" --quiet --output-file $(LOCK)
	printf 'hatchling\neditables\n' | uv pip compile pyproject.toml - --constraint $(LOCK) --universal --python-version 3.10 \
		--generate-hashes --custom-compile-command "make lock" --quiet --output-file $(DEMO_LOCK)
	printf 'hatchling\neditables\n' | uv pip compile pyproject.toml - --extra test --extra bench --constraint $(LOCK) --universal \
		--python-version 3.10 --generate-hashes --custom-compile-command "make lock" --quiet --output-file $(BENCH_LOCK)
	printf 'lancedb\nonnx\nonnxscript\nonnxruntime\nopenvino\npillow\nsentence-transformers\n' | uv pip compile - --constraint $(BENCH_LOCK) \
		--universal --python-version 3.10 --generate-hashes --custom-compile-command "make lock" --quiet --output-file $(PEERS_LOCK)
	{ grep -oE '^torch(vision)?==[0-9.]+' $(LOCK); printf 'infinity-emb[torch,server]\naiohttp\npillow\n'; } | uv pip compile - \
		--universal --python-version 3.10 --generate-hashes --custom-compile-command "make lock" --quiet --output-file $(INFINITY_LOCK)

audit:  ## look the pinned versions up among the known vulnerabilities (needs pip-audit and the network)
	pip-audit --requirement $(LOCK) --no-deps --disable-pip

tiny: $(TESTABLE)  ## train the bundled model again from its seed (about 28 minutes on 2 cores)
	.venv/bin/python -m vdx_udf.tiny.train

clean:  ## remove the environment and the demo's output
	rm -rf .venv .venv-peers .venv-infinity demo-output docs-output build dist .pytest_cache .ruff_cache .hypothesis
