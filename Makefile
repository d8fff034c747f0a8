# Start with make demo and make test. They need make, Python 3.12 or newer and access to the Python package index.

.PHONY: setup setup-dev demo seminar class-project test lint docs bench gpu clean
.DEFAULT_GOAL := demo

BIN := .venv/bin
DEMO_OUT := runs/demo
SEMINAR_MODEL ?= dofa
SEMINAR_BANDS ?= s2-9
# v1 for BigEarthNet v1; SEMINAR_CLASSES=43 for its finer nomenclature
SEMINAR_RELEASE ?=
SEMINAR_CLASSES ?=
SEMINAR_OUT ?= runs/seminar-$(SEMINAR_MODEL)-$(SEMINAR_BANDS)$(SEMINAR_RELEASE:%=-%)$(SEMINAR_CLASSES:%=-%)
# the class project; WEIGHTS=random VARIANT=small SIZE=70 CNN_SIZE=64 runs it in minutes, without trained weights
VARIANT ?= base-imagenet1k-1-layer
SIZE ?= 224
WEIGHTS ?= pretrained
CNN ?= resnet
CNN_SIZE ?= 224
VIEWS ?= 4
CLASS_PROJECT_OUT ?= runs/class-project
DEVICE ?= auto
GPU_OUT ?= runs/gpu
UV := $(shell command -v uv || echo .uv/bin/uv)

# setup installs what the commands need, setup-dev also what tests, checks and benchmarks need
setup: .venv/.ready
setup-dev: .venv/.ready-dev

# install uv into this project if it is missing
.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv

.venv/.ready: pyproject.toml constraints.txt $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing .venv
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.ready-dev: .venv/.ready
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# the whole pipeline on simulated scenes: features of two encoders, all probes on each, all figures, the report
demo: setup
	$(BIN)/featurize --model stats --dataset simulated --limit 600 --out $(DEMO_OUT)
	$(BIN)/featurize --model rcf --dataset simulated --limit 600 --image-size 40 --out $(DEMO_OUT)
	$(BIN)/probe --kind all --model stats --out $(DEMO_OUT)
	$(BIN)/probe --kind all --model rcf --out $(DEMO_OUT)
	$(BIN)/analyze report --out $(DEMO_OUT) $(OPEN:%=--open)
	@echo
	@echo "Open this page:   $(DEMO_OUT)/report/index.html (make demo OPEN=1 opens it)"
	@echo "Try your folder:  $(BIN)/featurize --model stats --dataset folder --data-root DIR, with images in DIR/<class>/"
	@echo "Read this guide:  docs/guide/your-images.md"

# from BigEarthNet's files (DATA/BigEarthNet-S2, DATA/metadata.parquet) to the seminar's table and figures;
# time and disk space: docs/studies.md
seminar: setup
	@test -n "$(DATA)" || { echo "DATA is not set; give the folder of BigEarthNet: make seminar DATA=/data/bigearthnet"; exit 2; }
	$(BIN)/featurize --model $(SEMINAR_MODEL) --bands $(SEMINAR_BANDS) --dataset bigearthnet --data-root $(DATA) \
		$(SEMINAR_RELEASE:%=--dataset-variant %) $(SEMINAR_CLASSES:%=--classes %) --device $(DEVICE) --out $(SEMINAR_OUT)
	$(BIN)/probe --protocol seminar --dataset bigearthnet --out $(SEMINAR_OUT)
	$(BIN)/analyze seminar --dataset bigearthnet --out $(SEMINAR_OUT)

# from EuroSAT's JPEGs (DATA/EuroSAT.zip and the split files) to the class project's tables and figures, in both of its
# setups: ten classes with 100 / 20 / 10 images each, and four classes with 200 each and 30 / 40 / 30 / 40 for test
class-project: setup
	@test -n "$(DATA)" || { echo "DATA is not set; give the folder of EuroSAT: make class-project DATA=/data/eurosat"; exit 2; }
	$(MAKE) --no-print-directory class-project-run OUT=$(CLASS_PROJECT_OUT)/ten-classes CHOICE="--per-class 100,20,10"
	$(MAKE) --no-print-directory class-project-run OUT=$(CLASS_PROJECT_OUT)/four-classes \
		CHOICE="--only-classes AnnualCrop,Forest,HerbaceousVegetation,Industrial --per-class 200,20,30+40+30+40"

.PHONY: class-project-run
class-project-run:
	$(BIN)/featurize --model dinov2 --variant $(VARIANT) --image-size $(SIZE) $(CLASS_PROJECT_FEATURES)
	$(BIN)/featurize --model $(CNN) --image-size $(CNN_SIZE) $(CLASS_PROJECT_FEATURES)
	$(BIN)/probe --model dinov2 $(CLASS_PROJECT_PROBE)
	$(BIN)/probe --model $(CNN) $(CLASS_PROJECT_PROBE)
	$(BIN)/probe --model dinov2+$(CNN) $(CLASS_PROJECT_PROBE)
	$(BIN)/analyze eurosat --dataset eurosat-rgb --data-root $(DATA) --out $(OUT)

CLASS_PROJECT_FEATURES = --weights $(WEIGHTS) --dataset eurosat-rgb --data-root $(DATA) $(CHOICE) --augment $(VIEWS) \
	--device $(DEVICE) --out $(OUT)
CLASS_PROJECT_PROBE = --protocol class-project --augment $(VIEWS) --dataset eurosat-rgb --out $(OUT)

# one thread per test process, so that the two processes do not compete for cores; a file's tests stay in one process
test: setup-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# the documentation site, build/site/index.html: notebooks and all commands in the pages executed, links checked
docs: setup-dev
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m tests.build_docs

bench: setup-dev
	$(BIN)/python -m tests.bench

# tests and benchmarks of ten minutes for one GPU; without a GPU, a dry run of every line on the CPU. On a bare machine
# with PyTorch and no network: make gpu WHEELS=folder, with the folder that python -m tests.gpu.wheels collects
ifdef WHEELS
gpu:
	python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target .gpu $(wildcard $(WHEELS)/*.whl)
	PYTHONPATH=.gpu python3 -m tests.gpu --out $(GPU_OUT)
else
gpu: setup-dev
	$(BIN)/python -m tests.gpu --out $(GPU_OUT)
endif

clean:
	rm -rf .venv .uv .gpu runs/demo
