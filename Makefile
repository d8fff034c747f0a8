# The verbs a newcomer needs: make demo, make test. Works on a fresh machine with Python 3 and make.

.PHONY: setup demo test lint bench clean
.DEFAULT_GOAL := demo

BIN := .venv/bin
DEMO_OUT := runs/demo
UV := $(shell command -v uv || echo .uv/bin/uv)

setup: .venv/.ready

# uv where it is absent: from the package index into a folder of this project
.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv

.venv/.ready: pyproject.toml constraints.txt $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing .venv
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
