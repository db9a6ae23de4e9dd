# `make demo` and `make test` need nothing but make and a python3 with venv.
PYTHON ?= python3
WORKERS ?= 2
SETTINGS = settings.ini setup.py pyproject.toml
ENVIRONMENT = .venv/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test faults audit notebooks tutorials clean

demo: .venv/installed
	.venv/bin/python -m cifar_fastai.train --recipe demo

test: .venv/installed-dev
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Kills, full disks, damaged and hostile files, done to real processes; the table goes to tests/faults/RESULTS.md.
faults: .venv/installed-dev
	.venv/bin/python -W ignore tests/faults full

# What is known against the libraries that are installed; needs the network.
audit: .venv/installed
	$(ENVIRONMENT) pip-audit
	.venv/bin/python -m pip_audit

# The modules, written anew from the notebooks.
notebooks: .venv/installed-dev
	.venv/bin/nbdev-export
	.venv/bin/nbdev-clean

# The tutorials, run and kept with what they show.
tutorials: .venv/installed-dev
	.venv/bin/nbdev-test nbs/tutorials --save --n-workers 0
	.venv/bin/nbdev-clean --fname nbs/tutorials

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(ENVIRONMENT) --upgrade pip

.venv/installed: .venv/bin/python $(SETTINGS)
	$(ENVIRONMENT) --editable .
	touch $@

.venv/installed-dev: .venv/bin/python $(SETTINGS)
	$(ENVIRONMENT) --editable '.[dev]'
	touch $@ .venv/installed

clean:
	rm -rf .venv build dist *.egg-info
