# Two commands on a machine with only Python 3.10+ and make:
#   make demo    synthetic data -> convert -> train -> test -> pictures
#   make test    linter and tests
# And on a machine with a GPU:
#   make gpu     tests and measurements that need one
# README.md has the commands for people without make.

PYTHON ?= python3
BIN := .venv/bin
ifeq ($(OS),Windows_NT)
PYTHON := python
BIN := .venv/Scripts
endif
RUN := $(BIN)/python
DEMO_RUN := checkpoints/demo

.PHONY: demo test gpu lint figures figures_real clean

demo: .venv/running
	rm -rf demo
	$(RUN) synthesize.py --out demo/raw
	$(RUN) convert_data.py --data_path demo/raw --out_folder demo
	$(RUN) train.py --preset demo --name demo --overwrite
	$(RUN) test.py $(DEMO_RUN)/best.pt --early_recognition
	$(RUN) plot.py skeletons demo/xview --out $(DEMO_RUN)/skeletons.png
	@echo "pictures:" $(addprefix $(DEMO_RUN)/,curves.png best_confusion.png best_report.png skeletons.png)

test: lint
	$(RUN) -m pytest -n auto --maxprocesses 8

gpu: .venv/testing
	$(RUN) benchmarks/gpu.py

lint: .venv/testing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The pictures of the pages. Those of data and results show the demo.
figures: demo
	$(RUN) plot.py skeletons demo/xview --out github/skeletons.png
	$(RUN) plot.py curves $(DEMO_RUN) --out github/curves.png
	cp $(DEMO_RUN)/best_confusion.png github/confusion.png
	cp $(DEMO_RUN)/best_report.png github/report.png
	$(RUN) predict.py demo/xview --checkpoint $(DEMO_RUN)/best.pt --animate github/animation.gif --clip \
		S002C001P002R001A008 S002C001P004R001A023 S002C001P005R001A059
	$(RUN) predict.py examples/hand-waving.npy --checkpoint demo-small --explain github/explain.png
	$(RUN) docs/diagrams.py
	$(RUN) plot.py early_recognition \
		results/combinations/NW-UCLA-xview-full-all-cropped-no-time-warping-stacked-chain-0.json \
		results/ensembles/NW-UCLA-xview-full-stacked-chain-0.json \
		results/combinations/NW-UCLA-xview-full-no-crops-stacked-chain-0.json \
		results/early_recognition/NW-UCLA-xview-live.json --out github/early_recognition.png
	$(RUN) benchmarks/tables.py

# The confusion matrices of released networks, with their data in this folder.
figures_real: .venv/running
	$(RUN) test.py nw-ucla-full
	$(RUN) test.py sbu-full-fold1
	$(RUN) plot.py confusion checkpoints/nw-ucla-full/nw-ucla-full_predictions.csv \
		--title "full on NW-UCLA, cross view" --out github/confusion_nw-ucla.png
	$(RUN) plot.py confusion checkpoints/sbu-full-fold1/sbu-full-fold1_predictions.csv \
		--title "full on SBU, fold 1" --out github/confusion_sbu.png

# Each environment is made again when its list of requirements changes.
.venv/running: requirements.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install -q -r requirements.txt
	@touch $@

.venv/testing: .venv/running requirements-dev.txt
	$(RUN) -m pip install -q -r requirements-dev.txt
	@touch $@

clean:
	rm -rf demo .venv
