# make demo: set up, then the main job on the embedded scenes world. make test: set up, then every check. Nothing but Python 3.11+, pip,
# gcc, git and make need be there. make docs: the documentation as a site, build/site/index.html. make vllm: a vLLM that runs on CPUs. Both
# in environments of their own beside the project's. make test-vllm: the tests that need that vLLM (minutes).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready
DOCS := .venv-docs
DOCS_READY := $(DOCS)/.ready

.PHONY: setup demo test vllm test-vllm browser bench docs clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vlm-harness needs Python 3.11 or later; this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch by itself and first: no other package may choose its build.
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/harness train-then-eval scenes-demo
	@printf '%s\n' '' 'Next, in this shell (harness is in $(VENV); without it: $(BIN)/harness):' \
	    '  source $(BIN)/activate' \
	    '  harness leaderboard runs/scenes-demo --base scenes-base --html board.html' \
	    '  harness compare scenes-base runs/scenes-demo/checkpoint-47 --board runs/scenes-demo' \
	    '  harness eval --model scenes-base --tasks scenes'

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

vllm: $(VLLM_READY)

$(VLLM_READY): tests/vllm/requirements.txt tests/vllm/prepare.py
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet torch==2.13.0
	$(VLLM)/bin/python -m pip install --quiet --no-deps -r tests/vllm/requirements.txt
	$(VLLM)/bin/python tests/vllm/prepare.py "$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	$(VLLM)/bin/vllm --version
	touch $(VLLM_READY)

test-vllm: $(READY) $(VLLM_READY)
	$(BIN)/pytest -m slow tests/vllm

# A headless Chromium for tests/browser, by npm; without it these tests are skipped.
browser:
	npm ci --prefix tests/browser

# All benchmarks, or some: make bench ONLY="engine dpo" (tests/bench/test_bench_NAME.py).
bench: $(READY)
	$(BIN)/pytest -o addopts=--import-mode=importlib $(if $(ONLY),$(ONLY:%=tests/bench/test_bench_%.py),tests/bench) --benchmark-only -q

docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build

$(DOCS_READY): pyproject.toml constraints.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $(DOCS_READY)

clean:
	rm -rf runs bench.json build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
