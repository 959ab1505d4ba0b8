# `make demo` and `make test` need only Python 3.10 to 3.12, make and git: the targets set up .venv.

.PHONY: demo test test-unit test-pythons test-service test-pbs test-containers acceptance chaos fuzz fuzz-requests test-img2dataset bench-corpus bench-dedup bench-embed bench-exact bench-gpu bench-ledger bench-orchestration bench-probes bench-quality bench-recall bench-scaling bench-startup lint docs lock setup clean
.DEFAULT_GOAL := help

PYTHON ?= $(shell for v in 3.11 3.12 3.10; do \
	for p in python3 python$$v; do \
		$$p -c "import sys; sys.exit(sys.version_info[:2] != tuple(map(int, '$$v'.split('.'))))" 2>/dev/null \
			&& { echo $$p; exit; }; \
	done; done)
# uv bundles certificates: behind a proxy that inspects TLS it needs the system's, which pip uses by default.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem),)
export UV_SYSTEM_CERTS ?= true
# The name of the setting in older releases of uv.
export UV_NATIVE_TLS ?= true
endif
BIN := .venv/bin
STAMP := .venv/.installed

help:
	@echo "make demo           curate a sample of 400 images; print precision and recall"
	@echo "make test           run all tests"
	@echo "make test-unit      run the unit tests, which start no server: a minute and a half"
	@echo "make test-pythons   run the unit tests and the demo under each installed Python 3.10, 3.11 and 3.12"
	@echo "make test-service   run the long tests of the service"
	@echo "make test-containers  run the Dockerfile and compose.yaml without an engine: root, debootstrap, 30 GB of disk"
	@echo "make acceptance     curate real images and check the output: REAL=folder"
	@echo "make chaos          curate while workers, nodes, PostgreSQL and the flow are killed: 120 kills, 40 minutes"
	@echo "make test-pbs       curate in jobs of stand-ins for PBS on two hosts: root, REAL=folder, 30 minutes"
	@echo "make bench-corpus   measure the stages that see the whole corpus on 12.8 million samples: 4 GB of disk"
	@echo "make bench-dedup    measure pairs against a full matrix, k-means, and a million rows in 4 GiB"
	@echo "make bench-embed    measure the embed stage against its model, clip-retrieval and a plain loop"
	@echo "make bench-exact    count decisions that depend on the precision of products: none; REAL=folder: on images"
	@echo "make bench-gpu      measure the embed stage and k-means on a GPU: REAL=folder"
	@echo "make bench-ledger   measure the ledger with 100,000 units and 64 workers"
	@echo "make bench-orchestration  measure what Prefect and the ledger cost for each of 10,000 shards"
	@echo "make bench-recall   measure the recall across cluster borders and the coverage of its interval"
	@echo "make bench-probes   measure the probes that clusters.probes: auto takes: 100 seeds"
	@echo "make bench-quality  measure which duplicates are found, beside image hashes: REAL=folder"
	@echo "make bench-scaling  measure embedding on two hosts against one, and the driver with up to 64 workers"
	@echo "make bench-startup  measure the commands of a small run, and the timeline of one"
	@echo "make fuzz           embed 10,000 damaged tars and images in limited memory"
	@echo "make fuzz-requests  send 1,000 malformed requests to the front door and to Prefect's API"
	@echo "make test-img2dataset  download with the real img2dataset and trigger runs"
	@echo "make docs           regenerate the generated parts of the documents"
	@echo "make lint           run ruff, mypy and import-linter; check that the documents are up to date"
	@echo "make lock           update requirements.lock"

setup: $(STAMP)

# The lock has hashes and no index URL: pip's and uv's own settings choose the registry.
$(STAMP): requirements.lock requirements-open-clip.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "made needs Python 3.10, 3.11 or 3.12; found $$(python3 --version 2>&1). Set PYTHON=/path/to/python." >&2; exit 2; }
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

# Each process has its own servers: with more of them, make test PROCESSES=4. The files with long tests come first.
PROCESSES ?= 2
test: setup
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

test-unit: setup
	$(BIN)/python -m pytest -n $(PROCESSES) tests/unit -m unit

# Creates an environment of 7 GB for each other version in build/pythons.
test-pythons: setup
	$(BIN)/python -m tests.pythons

# One of them: make test-service ARGS="-k dies"
test-service: setup
	$(BIN)/python -m tests.service $(ARGS)

# Needs root and debootstrap; keeps the Debian system and the packages in build/containers/cache. One of two
# parts: make test-containers ONLY=apptainer
test-containers: setup
	$(BIN)/python -m tests.containers $(if $(ONLY),--only $(ONLY))

# Real images and a real encoder in a local folder: make acceptance REAL=folder
acceptance: setup
	@test -d "$(REAL)/shards" || { echo "REAL=$(REAL) has no shards folder" >&2; exit 2; }
	$(BIN)/python -m tests.acceptance $(REAL) build/acceptance

# KILLS=8 is one round with a kill of each kind. Filling the disk needs root.
chaos: setup
	$(BIN)/python -m tests.chaos --kills $(or $(KILLS),120) --seed $(or $(SEED),0)

# On real images: make test-pbs REAL=folder. Some parts only: make test-pbs PARTS="two killed" (or PARTS=service)
test-pbs: setup
	@failed=0; parts="$(filter-out service,$(PARTS))"; \
		if [ -z "$(PARTS)" ] || [ -n "$$parts" ]; then \
			$(BIN)/python -m tests.pbs $(if $(REAL),--real $(REAL)) $$parts || failed=1; fi; \
		if [ -z "$(PARTS)" ] || [ -n "$(filter service,$(PARTS))" ]; then \
			$(BIN)/python -m tests.pbs_service || failed=1; fi; \
		exit $$failed

# With fewer samples: make bench-corpus SIZES="200000 1000000"
bench-corpus: setup
	$(BIN)/python -m benchmarks.corpus $(if $(SIZES),--sizes $(SIZES))

bench-dedup: setup
	@failed=0; for b in dedup kmeans scale; do $(BIN)/python -m benchmarks.$$b || failed=1; done; exit $$failed

# On real images, of REAL/shards: make bench-embed REAL=folder. clip-retrieval is installed beside, alone.
bench-embed: setup build/clip-retrieval
	$(BIN)/python -m benchmarks.embed $(if $(REAL),--real $(REAL))

# REAL=folder has shards/, and encoder/ with an open_clip config and checkpoint.
bench-exact: setup
	$(BIN)/python -m benchmarks.exact $(if $(REAL),--real $(REAL))

# On a machine with a GPU. make bench-gpu ARGS="--models ViT-L-14 --cores 6 16"
bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu $(if $(REAL),--real $(REAL)) $(ARGS)

build/clip-retrieval: | setup
	@UV=$$(command -v uv || echo $(BIN)/uv); $$UV pip install --quiet --python $(BIN)/python --no-deps \
		--target $@ clip-retrieval==2.45.0

bench-ledger: setup
	$(BIN)/python -m benchmarks.ledger

# With fewer shards: make bench-orchestration SHARDS=1000
bench-orchestration: setup
	$(BIN)/python -m benchmarks.orchestration $(if $(SHARDS),--shards $(SHARDS))

# With the embeddings of a real store: make bench-recall STORE=folder
bench-recall: setup
	$(BIN)/python -m benchmarks.recall $(if $(STORE),--store $(STORE))

# The probes that `clusters.probes: auto` takes, on planted near-duplicates.
bench-probes: setup
	$(BIN)/python -m benchmarks.probes --seeds $(or $(SEEDS),100)

# Beside PHash, DHash and PDQ, in an environment of their own: make bench-quality REAL=folder
HASHES := build/hashes
bench-quality: setup
	@test -d "$(REAL)/shards" || { echo "REAL=$(REAL) has no shards folder" >&2; exit 2; }
	@UV=$$(command -v uv || echo $(BIN)/uv); test -x $(HASHES)/bin/python || $$UV venv --quiet --python $(BIN)/python $(HASHES); \
		$$UV pip install --quiet --python $(HASHES)/bin/python --no-deps -r benchmarks/quality/hashes.txt
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])" \
		> $$($(HASHES)/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/made.pth
	$(HASHES)/bin/python -m benchmarks.quality $(REAL)

# With other damage: make fuzz SEED=1
fuzz: setup
	$(BIN)/python -m tests.fuzz --cases 10000 --seed $(or $(SEED),0)

# With other requests: make fuzz-requests SEED=1
fuzz-requests: setup
	$(BIN)/python -m tests.fuzz.requests --cases 1000 --seed $(or $(SEED),0)

# Creates an environment for img2dataset in build/img2dataset.
test-img2dataset: setup
	$(BIN)/python -m tests.img2dataset

# Two hosts against one, and what the driver costs with up to 64 workers.
bench-scaling: setup
	@failed=0; for b in scaling driver; do $(BIN)/python -m benchmarks.$$b || failed=1; done; exit $$failed

bench-startup: setup
	$(BIN)/python -m benchmarks.startup

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python docs/generate.py --check

# The annotated recipe and the generated regions of the documents.
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
