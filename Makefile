# One command on a fresh machine with Python 3.11 or newer and make: `make demo`, or `make test`.

PYTHON ?= $(firstword $(foreach python,python3 python3.11 python3.12 python3.13 python3.14,$(shell \
	$(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(python))))
BIN := .venv/bin
STAMP := .venv/installed
PROTOC = $(BIN)/python -m grpc_tools.protoc -Iproto
PROTOC_OUT = --python_out=$(1) --grpc_python_out=$(1) --mypy_out=$(1) --mypy_grpc_out=$(1)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo test test-all check bench proto proto-drift docs docs-drift clean

help:
	@echo 'make demo      four hospitals fine-tune one model together, on this machine (about 2 minutes)'
	@echo 'make test      the tests that run on every change'
	@echo 'make test-all  those and the slow ones (chaos, scale, the documentation played through)'
	@echo 'make check     lint, formatting, types, layers, wire format, generated files'
	@echo 'make bench     the benchmarks the documentation quotes (half an hour)'
	@echo 'make proto     generate proto/cloister/v1/*_pb2* from the .proto files'
	@echo 'make docs      generate the state diagrams from the transition tables'

# A virtual environment in the clone; nothing outside it is touched.
$(STAMP): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'make: no Python 3.11 or newer found: install one, or say make PYTHON=/path/to/python' >&2; exit 3; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/cloister demo

test: $(STAMP)
	$(BIN)/pytest

test-all: $(STAMP)
	$(BIN)/pytest -m 'slow or not slow'

check: $(STAMP) proto-drift docs-drift
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint proto

bench: $(STAMP)
	$(BIN)/cloister bench aggregation --values 1000000 --silos 4
	$(BIN)/cloister bench aggregation --values 1000000 --silos 4 --suite ckks-group
	$(BIN)/cloister bench heart --seeds 5
	$(BIN)/cloister bench heart --seeds 5 --sweep
	$(BIN)/cloister bench training
	$(BIN)/cloister bench audit

proto: $(STAMP)
	$(PROTOC) $(call PROTOC_OUT,proto) proto/cloister/v1/*.proto

proto-drift: $(STAMP)
	@generated=$$(mktemp -d) && trap 'rm -rf "$$generated"' EXIT && \
	$(PROTOC) $(call PROTOC_OUT,$$generated) proto/cloister/v1/*.proto && \
	diff -r --exclude='*.proto' --exclude=__init__.py --exclude=__pycache__ "$$generated/cloister/v1" proto/cloister/v1 || \
	{ echo 'make: proto/cloister/v1 is not what its .proto files generate: run make proto and commit' >&2; exit 1; }

docs: $(STAMP)
	$(BIN)/python -m federation.diagrams docs/reference

docs-drift: $(STAMP)
	$(BIN)/python -m federation.diagrams --check docs/reference

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
