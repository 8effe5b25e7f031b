# Everything a stranger needs: `make demo`, `make test`. Needs Python >= 3.11 with venv and pip, make, git; no root.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# For the demo: a port for its page, a data folder, origins of other pages. Arguments for pytest and for the benches.
PORT   ?=
DATA   ?=
ORIGIN ?=
ARGS   ?=
# What the people of the demo's photo site do by themselves, as 5/s; a port for its workbench.
CROWD     ?=
WORKBENCH ?=
# Tests at a time: half of their time is waiting, so three fit on two cores. ARGS="-n 0" runs them in one process.
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo test lint campaign bench clean
# A recipe that fails leaves no half-made stamp behind.
.DELETE_ON_ERROR:

help:
	@echo 'make demo        start everything and leave it running; PORT=8000 fixes the page, DATA=folder keeps the data,'
	@echo '                 CROWD=5/s lets the people on its photo site like, follow and comment by themselves,'
	@echo '                 ORIGIN=http://localhost:5173 lets a page of yours connect (several: ORIGIN="... ..."),'
	@echo '                 WORKBENCH=8001 fixes the plain page, which also has tokens for pages of yours'
	@echo 'make test        ruff, mypy and every test but the long ones; ARGS="-k name" chooses,'
	@echo '                 WORKERS=6 runs six at a time (three otherwise), ARGS="-n 0" one in this process'
	@echo 'make lint        ruff and mypy alone'
	@echo 'make campaign    the long tests: chaos, soak, outages'
	@echo 'make bench       measure; ARGS chooses the benches'
	@echo 'make clean       remove what was installed, built or left over here'
	@echo 'PYTHON=...       the Python to make $(VENV) with (>= 3.11; now: $(PYTHON))'

# exec: a signal meant for the demo reaches the demo. stdin may be closed: then every program gets an empty one.
demo: $(VENV)/.embedded
	@exec $(BIN)/notifier demo $(if $(PORT),--port '$(PORT)') $(if $(DATA),--data '$(DATA)') \
	  $(if $(CROWD),--crowd '$(CROWD)') $(if $(WORKBENCH),--workbench '$(WORKBENCH)') \
	  $(foreach origin,$(ORIGIN),--origin '$(origin)') </dev/null

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS) </dev/null

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

campaign: $(VENV)/.test
	$(BIN)/python -m pytest -m campaign $(ARGS) </dev/null

bench: $(VENV)/.test
	$(BIN)/python -m bench $(ARGS) </dev/null

clean:
	@# Started by root, the demo's PostgreSQL keeps its data where an unprivileged user gets in.
	@for elsewhere in .demo/web/*/elsewhere; do if [ -f "$$elsewhere" ]; then rm -rf "$$(cat "$$elsewhere")"; fi; done
	rm -rf $(VENV) .demo .ci/node build dist bench/.build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: pip runs again only when what it would install may have changed.
$(VENV)/.embedded: $(VENV)/.made setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded,webapp]' </dev/null
	@touch $@

$(VENV)/.test: $(VENV)/.made setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded,webapp,test]' </dev/null
	@touch $@ $(VENV)/.embedded

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "notifier needs Python 3.11 or later; $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...")' </dev/null
	$(PYTHON) -m venv --clear $(VENV) </dev/null
	@touch $@
