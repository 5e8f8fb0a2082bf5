# Two commands need nothing but this file: `make demo` and `make test`.
BIN := .venv/bin

.PHONY: setup demo test test-all lint bench

setup:
	@tools/setup.sh

demo: setup
	@$(BIN)/python tools/demo.py

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup lint
	$(BIN)/python -m pytest -n 2 -m "not slow and not bench and not device"

# Everything that needs no board and no quiet machine. What it finds goes into docs/models.md.
test-all: setup lint
	$(BIN)/python -m pytest -n 2 -m "not bench and not device"
	$(BIN)/python tools/models_table.py

# One after the other and alone: these measure time. A missed goal is told by a status of 1, and does
# not keep the others from being measured.
bench: setup
	@status=0; for program in benchmarks/[a-z]*.py; do \
	    echo "== $$program"; $(BIN)/python "$$program" || status=1; \
	done; \
	$(BIN)/python tools/table11_tables.py; $(BIN)/python tools/models_bench_tables.py; exit $$status
