# make run · make test · make lint · make demo · make bench
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint demo bench install format
