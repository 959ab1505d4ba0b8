# Two commands do all set-up on a machine with Python 3.10 to 3.12, make and git.
.PHONY: demo test lint lock setup clean
.DEFAULT_GOAL := help

PYTHON ?= $(shell for v in 3.11 3.12 3.10; do \
	for p in python3 python$$v; do \
		$$p -c "import sys; sys.exit(sys.version_info[:2] != tuple(map(int, '$$v'.split('.'))))" 2>/dev/null \
			&& { echo $$p; exit; }; \
	done; done)
BIN := .venv/bin
STAMP := .venv/.installed

help:
	@echo "make demo    a sample of 400 pictures, curated; prints precision and recall"
	@echo "make test    all tests"
	@echo "make lint    ruff and mypy"
	@echo "make lock    resolve requirements.lock anew"

setup: $(STAMP)

# The lock has hashes and names no registry: pip's and uv's own settings say where packages are.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "made needs Python 3.10, 3.11 or 3.12; found $$(python3 --version 2>&1). Say PYTHON=/path/to/python." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@command -v uv >/dev/null 2>&1 || test -x $(BIN)/uv || $(BIN)/pip install --quiet --disable-pip-version-check uv
	@UV=$$(command -v uv || echo $(BIN)/uv); echo "installing from requirements.lock (7 GB, minutes the first time)"; \
		$$UV pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock && \
		$$UV pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@$(BIN)/python -m benchmarks.demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: setup
	@UV=$$(command -v uv || echo $(BIN)/uv); $$UV pip compile --quiet --universal --python-version 3.10 \
		--no-emit-index-url --generate-hashes --extra dev --custom-compile-command "make lock" \
		-o requirements.lock pyproject.toml

clean:
	rm -rf .venv demo build
