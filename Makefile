# make run   start everything and say what to do next
# make test  every test, and a few scenarios with a real Synapse · make lint · make demo · make bench · make images · make images-check
# make compat  every scenario with a real Synapse, which it installs into .venv-synapse
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8008

.PHONY: run test compat lint format demo bench images images-check lock schema

run: .venv/.run
	@$(BIN)/python -m tools.run --port $(PORT)

demo: .venv/.run
	@$(BIN)/python -m tools.demo

test: .venv/.test
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal
	$(BIN)/pytest synapse_compat_tests -m short

compat: .venv/.test
	$(BIN)/pytest synapse_compat_tests

lint: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest tests/architecture

format: .venv/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/.test
	$(BIN)/python -m benchmarks.run

# Containers; BASE is any Debian 12 with Python 3.11.
images:
	docker build $(if $(BASE),--build-arg BASE=$(BASE)) -f docker/Dockerfile --target server -t countersign .
	docker build $(if $(BASE),--build-arg BASE=$(BASE)) -f docker/Dockerfile --target gate -t countersign-gate .
	docker build $(if $(BASE),--build-arg BASE=$(BASE)) -f docker/conformance.Dockerfile -t countersign-conformance .

images-check: .venv/.test images
	COUNTERSIGN_IMAGES_CHECK=1 $(BIN)/pytest tests/docker

# Write the versions in use into constraints.txt, after an upgrade that passed the tests.
lock: .venv/.test
	$(BIN)/pip freeze --exclude-editable > constraints.txt

.venv/.run: setup.cfg constraints.txt tools/install
	@PYTHON=$(PYTHON) sh tools/install .
	@touch $@

.venv/.test: setup.cfg constraints.txt tools/install
	@PYTHON=$(PYTHON) sh tools/install '.[lint,test]'
	@touch .venv/.run $@
