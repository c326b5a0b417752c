# make demo, make test: all that is needed is Python 3.11, make and git.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
export PYTHONDONTWRITEBYTECODE=

.PHONY: setup demo test bench check lock clean
setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "ssmd needs Python 3.11 as '$(PYTHON)'; or say: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-uv.lock
	@# A machine whose network inspects TLS trusts a certificate of its own: then the second try succeeds.
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock 2>/dev/null || \
	$(BIN)/uv pip sync --quiet --system-certs --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/python -c "import pathlib,sysconfig; pathlib.Path(sysconfig.get_path('purelib'),'ssmd-checkout.pth').write_text('$(CURDIR)\n')"
	@printf '#!%s\nimport sys\nfrom ssmd.cli import main\nsys.exit(main())\n' '$(CURDIR)/$(BIN)/python' > $(BIN)/ssmd && chmod +x $(BIN)/ssmd
	@$(BIN)/python -c "import projections.kernels" # compiled once, into __pycache__
	@touch $@

demo: $(STAMP)
	@$(BIN)/ssmd demo $(if $(DEMO_RECORDING),--recording "$(DEMO_RECORDING)")

# Whole files go to two workers; more make tests that time processes fail for want of cores. WORKERS=0: none, for --pdb.
WORKERS ?= 2
test: $(STAMP)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/audit_dependencies.py
	@$(BIN)/python -m pytest -q tests/house/test_wheel.py tests/house/test_contracts.py

bench: $(STAMP)
	@$(BIN)/python -m tests.bench $(ARGS)

lock: $(STAMP)
	$(BIN)/uv pip compile --quiet --no-emit-index-url --no-emit-find-links --universal --python-version 3.11 --generate-hashes --extra dev pyproject.toml -o requirements.lock
	echo uv | $(BIN)/uv pip compile --quiet --no-emit-index-url --no-emit-find-links --universal --python-version 3.11 --generate-hashes - -o requirements-uv.lock

clean:
	rm -rf .venv build dist .ssmd
