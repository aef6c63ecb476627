# `make demo` and `make test` do all the setting up: they make .venv, and the second time that costs nothing.
# Another interpreter: make test PYTHON=/path/to/python3.12

VENV := .venv
BIN := $(VENV)/bin
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python)
IS_SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
UV := $(shell command -v uv 2>/dev/null)
INSTALL := $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install --disable-pip-version-check)

.PHONY: demo test test-slow test-oldest lint lock sbom audit

demo: $(VENV)/.installed
	$(BIN)/gwapctl demo --overwrite

# One file's tests stay together, for they share what is trained for them.
test: lint
	$(BIN)/pytest --numprocesses auto --dist loadfile -m "not slow"

# Proofs that take their time: the whole of what a new user does.
test-slow: $(VENV)/.installed
	$(BIN)/pytest --numprocesses auto --dist loadfile -m slow

# The oldest versions that pyproject.toml allows, where uv can resolve them: tests in an environment of their own.
# One Python suffices, the oldest: others have no wheels of versions from before them. Licences are of locked versions.
test-oldest:
	@command -v uv >/dev/null || { echo "error: make test-oldest needs uv: pip install uv" >&2; exit 1; }
	uv venv --quiet --clear --python 3.11 $(VENV)-oldest
	uv pip install --quiet --python $(VENV)-oldest/bin/python --resolution lowest-direct --editable '.[dev]'
	$(VENV)-oldest/bin/pytest --numprocesses auto --dist loadfile -m "not slow" --ignore tests/test_supply.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The versions that `make` installs, for every supported Python and system. Run it after changing pyproject.toml.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --quiet --output-file requirements.lock

# What gwapctl runs on, as CycloneDX: of what is installed, without the network, the same bytes every time.
sbom: $(VENV)/.installed
	$(BIN)/python benchmarks/write_sbom.py sbom.json

# Known vulnerabilities of the locked versions; asks the package index.
audit: $(VENV)/.installed
	$(BIN)/pip-audit --requirement requirements.lock --require-hashes --disable-pip

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	$(INSTALL) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.locked: requirements.lock
	@if ! $(BIN)/python -c '$(IS_SUPPORTED)' 2>/dev/null; then \
		found=; \
		for python in $(PYTHONS); do \
			if $$python -c '$(IS_SUPPORTED)' 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "error: gwapctl needs Python 3.11, 3.12 or 3.13, and none was found ($(PYTHONS))." \
				"Install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$found"; \
		$(if $(UV),uv venv --quiet --clear --python "$$(command -v $$found)",$$found -m venv --clear) $(VENV); \
	fi
	@echo "Installing the locked versions into $(VENV) (torch is large: some minutes the first time)"
	$(INSTALL) --quiet --require-hashes -r requirements.lock
	@touch $@
