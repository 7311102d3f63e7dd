# Every target says what it is for behind "##"; `make` lists them. `demo`, `test` and `check` set up what they need.

.DEFAULT_GOAL := help
.PHONY: help setup venv demo test check bench docs clean

BIN := .venv/bin
GOAL = VMCTL_GOAL=$(firstword $(MAKECMDGOALS))
# Two workers suit two cores: the daemons need the rest. A test that cannot share the host names an xdist_group.
WORKERS ?= 2
# More for pytest, such as: make test PYTEST='-k ledger -x'
PYTEST ?=

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Everything the other targets need: packages, virtual environment, daemons, guest kernel
	@$(GOAL) sh contrib/setup/setup.sh

demo: setup ## A machine, a container and an application from one image, side by side under one ledger
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh contrib/demo/demo.sh

test: setup ## All tests, on the real daemons; PYTEST='-k word' for some, VMCTL_TEST_REQUIRE=libvirt,docker,sandbox
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -r fEsx --durations 10 $(PYTEST)

venv:
	@$(GOAL) sh contrib/setup/setup.sh venv

check: venv ## Lint, types, import rules; needs no daemon
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -p no:cacheprovider -k 'not linters' tests/meta

bench: setup ## Speed beside the tools underneath, as ratios
	@$(BIN)/python -m contrib.bench $(BENCH)

docs: venv ## Generated pages: capabilities, errors, commands, schemas
	@$(BIN)/python contrib/docs/generate.py

clean: ## Remove what was generated here; packages, daemons and instances stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info vmctl/images/guest/vmctl-init
	find vmctl tests contrib -name __pycache__ -type d -prune -exec rm -rf {} +
