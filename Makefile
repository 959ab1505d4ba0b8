# Two commands do all set-up on a machine with Python 3.10 to 3.12, make and git.

.PHONY: demo test test-unit test-pythons acceptance chaos fuzz bench-dedup bench-ledger bench-recall lint docs lock setup clean
.DEFAULT_GOAL := help

PYTHON ?= $(shell for v in 3.11 3.12 3.10; do \
	for p in python3 python$$v; do \
		$$p -c "import sys; sys.exit(sys.version_info[:2] != tuple(map(int, '$$v'.split('.'))))" 2>/dev/null \
			&& { echo $$p; exit; }; \
	done; done)
# uv brings certificates of its own: behind a proxy that inspects TLS it needs the system's, as pip has.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem),)
export UV_SYSTEM_CERTS ?= true
# Its name in older releases of uv.
export UV_NATIVE_TLS ?= true
endif
BIN := .venv/bin
STAMP := .venv/.installed

help:
	@echo "make demo    a sample of 400 pictures, curated; prints precision and recall"
	@echo "make test    all tests"
	@echo "make test-unit      those that start no server: a minute"
	@echo "make test-pythons   unit tests and the demo under each of Python 3.10, 3.11 and 3.12 found here"
	@echo "make acceptance REAL=folder   curate real photographs and check the output"
	@echo "make chaos   runs while workers, nodes, PostgreSQL and the flow are killed: 120 kills, 40 minutes"
	@echo "make bench-dedup    one cluster against a full matrix; k-means' rate; a million rows in 4 GiB"
	@echo "make bench-ledger   100,000 units, 64 workers"
	@echo "make bench-recall   what borders between clusters lose, and whether the interval says so"
	@echo "make fuzz    10,000 damaged tars and pictures, embedded in limited memory"
	@echo "make docs    write the generated parts of the documents anew"
	@echo "make lint    ruff, mypy, the layers of imports, and whether the documents are up to date"
	@echo "make lock    resolve requirements.lock anew"

setup: $(STAMP)

# The lock has hashes and names no registry: pip's and uv's own settings say where packages are.
$(STAMP): requirements.lock requirements-open-clip.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "made needs Python 3.10, 3.11 or 3.12; found $$(python3 --version 2>&1). Say PYTHON=/path/to/python." >&2; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@command -v uv >/dev/null 2>&1 || test -x $(BIN)/uv || $(BIN)/pip install --quiet --disable-pip-version-check uv
	@UV=$$(command -v uv || echo $(BIN)/uv); echo "installing from requirements.lock (7 GB, minutes the first time)"; \
		$$UV pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock && \
		$$UV pip install --quiet --python $(BIN)/python --no-deps --target .venv/open_clip_train --require-hashes \
			-r requirements-open-clip.lock && \
		$$UV pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@rm -rf demo
	$(BIN)/made sample demo/sample
	$(BIN)/made curate --source demo/sample/shards --output demo/output --log-folder demo/logs
	@$(BIN)/python -m benchmarks.demo demo/sample demo/output

test: setup
	$(BIN)/python -m pytest

test-unit: setup
	$(BIN)/python -m pytest tests/unit -m unit

# An environment of 7 GB for each other version, in build/pythons.
test-pythons: setup
	$(BIN)/python -m tests.pythons

# Real photographs and a real encoder, where they stand: make acceptance REAL=folder
acceptance: setup
	@test -d "$(REAL)/shards" || { echo "REAL=$(REAL) has no shards folder" >&2; exit 2; }
	$(BIN)/python -m tests.acceptance $(REAL) build/acceptance

# KILLS=8 is one round, of a kill of each kind. As root, the disk is filled too.
chaos: setup
	$(BIN)/python -m tests.chaos --kills $(or $(KILLS),120) --seed $(or $(SEED),0)

bench-dedup: setup
	@failed=0; for b in dedup kmeans scale; do $(BIN)/python -m benchmarks.$$b || failed=1; done; exit $$failed

bench-ledger: setup
	$(BIN)/python -m benchmarks.ledger

# A real store's embeddings: make bench-recall STORE=folder
bench-recall: setup
	$(BIN)/python -m benchmarks.recall $(if $(STORE),--store $(STORE))

# Another seed, other damage: make fuzz SEED=1
fuzz: setup
	$(BIN)/python -m tests.fuzz --cases 10000 --seed $(or $(SEED),0)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python docs/generate.py --check

# The annotated recipe, and what stands between "generated" and "end" in the documents.
docs: setup
	$(BIN)/python docs/generate.py

lock: setup
	@UV=$$(command -v uv || echo $(BIN)/uv); $$UV pip compile --quiet --universal --python-version 3.10 \
		--no-emit-index-url --generate-hashes --extra dev --custom-compile-command "make lock" \
		-o requirements.lock pyproject.toml && \
	$$UV pip compile --quiet --no-deps --no-emit-index-url --generate-hashes --custom-compile-command "make lock" \
		-o requirements-open-clip.lock requirements-open-clip.in

clean:
	rm -rf .venv demo build
