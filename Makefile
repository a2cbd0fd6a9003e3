# Every target sets up what it needs in .venv; nothing else has to be installed by hand.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
WORKERS ?= 2

.PHONY: demo test lint unit test-comfyui test-editor bench bench-gpu evaluate generated clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,gateway,identity,dev]'
	@touch $@

demo: $(READY)
	@mkdir -p out
	$(BIN)/ryla run flux-dev --engine embedded --width 256 --height 256 --seed 7 \
	    --prompt "a portrait of a person, tan skin, long red hair, round glasses, a purple hat, sky blue background" -o out/demo.jpg

# Each worker and the engines that it starts compute in one thread: two of them in several threads get into each other's way.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -c tests/pytest.ini -n $(WORKERS) --dist loadfile tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd custom_nodes && ../$(BIN)/lint-imports --no-cache ../pyproject.toml

unit: $(READY)
	$(BIN)/python -m pytest -c tests/pytest.ini tests/unit

# Need a real ComfyUI: COMFYUI_PATH=/path/to/ComfyUI COMFYUI_PYTHON=/path/to/its/python
test-comfyui: $(READY)
	RYLA_REQUIRE=all $(BIN)/python -m pytest -c tests/pytest.ini tests/comfyui

# The graph editor in a browser, for each ComfyUI in turn. Needs what test-comfyui needs, and a Chromium.
test-editor: $(READY)
	RYLA_REQUIRE=all $(BIN)/python -m pytest -c tests/pytest.ini tests/comfyui/editor

# All that is made from the nodes and the workflows; says what is left to translate.
generated: $(READY)
	$(BIN)/python scripts/record_schemas.py
	$(BIN)/python scripts/export_ui_workflows.py
	$(BIN)/python scripts/make_locales.py

bench: $(READY)
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# On a GPU, full-size noise weights: BENCH_GPU="--comfyui /path/to/ComfyUI --weights make". Writes docs/benchmarks.md.
bench-gpu: export OUT ?= out/gpu
bench-gpu: $(READY)
	@mkdir -p $(OUT)
	@for script in benchmarks/gpu_*.py; do echo "== $$script"; $(BIN)/python $$script $(BENCH_GPU) || exit 1; done
	$(BIN)/python benchmarks/write_tables.py $(OUT)

# The shipped models: 660 pictures that prompts ask for, then 1,050 of people, judged. Interrupt it and it goes on.
evaluate: $(READY)
	$(BIN)/python benchmarks/paint.py
	$(BIN)/python benchmarks/people.py

clean:
	rm -rf .venv out
