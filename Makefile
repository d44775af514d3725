# Two commands, on a fresh Debian or Ubuntu with git, make and Python 3.11 with venv: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test install lint clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/edgestill run digits

test: lint
	$(BIN)/python -m pytest -n auto

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(INSTALLED)

# constraints.txt pins every package, the build tools included.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV): about a minute, torch is the large part"
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[demo,rtx,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
