# Two commands need nothing but this file: `make demo` and `make test`.
BIN := .venv/bin

.PHONY: setup demo test test-all lint bench bench-all

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
# not keep the others from being measured. `bench` is one ParC, its dense form, the fixed-point rates and the
# models that the papers compare, in half an hour; `bench-all` takes hours, and is what the pages show.
BENCH_MODELS = convnext_xt parc_convnext_xt resnet50 mobilenetv2 parc_mobilenetv2 mobilevit_s parcnet_s
bench: setup
	@status=0; run() { echo "== $$*"; $(BIN)/python "$$@" || status=1; }; \
	run benchmarks/table11.py; run benchmarks/kernels_dense.py; \
	run benchmarks/fixed_point.py --skip-first-calls; run benchmarks/fixed_point_mac.py; \
	run benchmarks/models.py $(BENCH_MODELS) --seconds 0.5; \
	run tools/table11_tables.py; run tools/models_bench_tables.py; exit $$status

bench-all: bench
	@status=0; run() { echo "== $$*"; $(BIN)/python "$$@" || status=1; }; \
	for program in planner_pick parc_long parc_error parc_compile command_line convnext studies models accel; do \
	    run benchmarks/$$program.py; done; \
	for part in accuracy agreement speed first_calls tables; do run benchmarks/integer_models.py $$part; done; \
	run benchmarks/tuning_trust.py --again; \
	for part in throughput table11 model; do run benchmarks/tuning.py $$part; done; \
	for table in tools/*_tables.py; do run $$table; done; exit $$status
