# Needs Python 3.10 or newer and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CACHE ?= demo/cache
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: demo test test-thorough test-all test-slow oldest audit chromium docs check lint types format clean

demo: $(VENV)/.installed  ## install, take the balloon of a sample picture from night to desert, say where to look
	mkdir -p demo
	$(BIN)/diffedit edit sample_images/balloon-at-night.png --from "a balloon at night" \
		--to "a balloon in the desert" --output demo/desert.png --cache-dir $(CACHE)
	@echo
	@echo "Before: sample_images/balloon-at-night.png"
	@echo "After:  demo/desert.png"

test: $(VENV)/.installed-dev  ## install what the tests need, and pass those that are quick
	$(BIN)/python -m pytest -n auto -m 'not slow and not thorough'

test-thorough: $(VENV)/.installed-dev  ## those that take some seconds each
	$(BIN)/python -m pytest -n auto -m 'thorough and not slow'

test-all: test test-thorough  ## both

test-slow: $(VENV)/.installed-dev  ## the heavy suites
	$(BIN)/python -m pytest -m slow

oldest: OLDEST = .venv-oldest/bin/python
oldest:  ## the tests with the oldest libraries that pyproject.toml allows, but torch as in constraints.txt
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST) -m pip install --quiet --disable-pip-version-check uv
	grep ^torch== constraints.txt > .venv-oldest/torch.txt
	$(OLDEST) -m uv pip compile --quiet --python $(OLDEST) --extra dev --resolution lowest-direct \
		--constraints .venv-oldest/torch.txt --output-file .venv-oldest/pins.txt pyproject.toml
	$(OLDEST) -m uv pip install --quiet --python $(OLDEST) --requirements .venv-oldest/pins.txt
	$(OLDEST) -m uv pip install --quiet --python $(OLDEST) --no-deps --editable .
	$(OLDEST) -m pytest -n auto

audit:  ## known vulnerabilities of what constraints.txt names
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

chromium:  ## the browser that the report page is tested in, where apt-get has it; `make test` goes without if it must
	@command -v chromium && command -v chromedriver || \
		{ $(SUDO) apt-get update && $(SUDO) apt-get install --yes --no-install-recommends chromium chromium-driver; } || \
		{ echo "Install Chromium and chromedriver, or say where they are: CHROMIUM=... CHROMEDRIVER=..."; exit 1; }

docs: $(VENV)/.installed  ## the pages that are made from the code
	$(BIN)/python -m diffedit_cli.cli.reference parameters > docs/parameters.md
	$(BIN)/python -m diffedit_cli.cli.reference man > docs/diffedit.1

check: lint types  ## everything else that must hold before a commit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-oldest .venv-audit demo

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "diffedit needs Python 3.10 or newer; say which: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@
