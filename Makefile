# The few commands of this project; each sets up what it needs. `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
ARGS   ?=

.PHONY: help demo up test chaos kills lint format docs bench bench-here bench-feeds bench-many bench-folds bench-stores bench-outage rivals lock clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

# One environment; `dev` includes all that `local` and `research` hold, so installing it later only adds.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Raven needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "==> creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/%.stamp: requirements/%.lock pyproject.toml $(VENV)/bin/python
	@echo "==> installing requirements/$*.lock (a minute or two the first time)"
	@$(PIP) install --require-hashes -r $<
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(VENV)/local.stamp  ## local stack, simulator and all services, with a live view; ARGS="--speed max ..."
	@$(BIN)/ravenctl demo $(ARGS)

up: $(VENV)/local.stamp  ## Kafka, databases and Raven's services on this machine, to stay; then: .venv/bin/ravenctl start ...
	@$(BIN)/ravenctl local up $(ARGS)

# Two workers, for two cores; each file that starts servers stays on one of them.
test: $(VENV)/dev.stamp  ## format, lint, types, then all tests; ARGS="-k tib"
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

chaos: $(VENV)/dev.stamp  ## ten minutes of every fault on every feed, and whether all is accounted for; ARGS="--seed 7"
	@$(BIN)/python -m tests.chaos.run $(ARGS)

kills: $(VENV)/dev.stamp  ## fifty kills of two engines in the middle of a replay; ARGS="--kills 10 --seed 3"
	@$(BIN)/python -m tests.processors.kills $(ARGS)

lint: $(VENV)/dev.stamp  ## format, lint and types alone
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

format: $(VENV)/dev.stamp  ## rewrite the sources in the house style
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

docs: $(VENV)/dev.stamp  ## write the generated pages of docs/ anew
	@$(BIN)/python docs/generate.py

# In an environment of its own: quixstreams pins an older confluent-kafka than Raven's.
bench:  ## the engine against its rivals, in one run; ARGS="--trades 200000"
	@$(MAKE) --no-print-directory VENV=.venv-bench bench-here

bench-here: $(VENV)/bench.stamp
	@$(BIN)/python -m benchmarks.engine $(ARGS)

# cryptofeed has an environment of its own, with the same Python; nothing of Raven is in it.
.venv-rivals/rivals.stamp: requirements/rivals.lock
	@echo "==> installing requirements/rivals.lock into .venv-rivals (cryptofeed is compiled: a C compiler and a minute)"
	@test -x .venv-rivals/bin/python || $(PYTHON) -m venv .venv-rivals
	@.venv-rivals/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r $<
	@touch $@

bench-feeds: $(VENV)/local.stamp .venv-rivals/rivals.stamp  ## the collector's feeds beside cryptofeed; RAVEN_RECORDINGS=folder
	@$(BIN)/python -m benchmarks.feeds --rival-python .venv-rivals/bin/python $(ARGS)

bench-many: $(VENV)/local.stamp  ## 500 symbols on one collector: CPU, memory, lag; ARGS="--minutes 30 --kept"
	@$(BIN)/python -m benchmarks.many $(ARGS)

# The rivals in bars: an environment each, for their pins differ; nothing of Raven is in them. The newest nautilus_trader
# and RiskLabAI want Python 3.12.
RIVALS_PYTHON ?= $(shell python3.12 -c 'import sys; print(sys.executable)' 2>/dev/null \
  || ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.12.*/bin/python 2>/dev/null | tail -1)
BARS_RIVALS := mlfinpy risklabai nautilus

.venv-rivals-%/made.stamp: requirements/rivals-%.lock
	@echo "==> installing $< into $(@D)"
	@test -x $(@D)/bin/python || $(if $(filter mlfinpy,$*),$(PYTHON),$(RIVALS_PYTHON)) -m venv $(@D) \
	  || { echo "it wants Python 3.12; say which with: make RIVALS_PYTHON=/path/to/python3.12 ..."; exit 1; }
	@$(@D)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r $<
	@touch $@

rivals: $(VENV)/local.stamp $(BARS_RIVALS:%=.venv-rivals-%/made.stamp)  ## bars beside mlfinpy's, RiskLabAI's and nautilus_trader's, one by one; RAVEN_RECORDINGS=folder
	@$(BIN)/python -m benchmarks.bars $(foreach one,$(BARS_RIVALS),--$(one) .venv-rivals-$(one)/bin/python) $(ARGS)

bench-folds: $(VENV)/local.stamp .venv-rivals-mlfinpy/made.stamp .venv-rivals-nautilus/made.stamp  ## every fold beside the rivals' aggregators; RAVEN_RECORDINGS=folder
	@$(BIN)/python -m benchmarks.folds $(foreach one,mlfinpy nautilus,--$(one) .venv-rivals-$(one)/bin/python) $(ARGS)

bench-stores: $(VENV)/local.stamp  ## rows a second into every store, each beside the bare way; ARGS="--rounds 9"
	@for one in influx timescale lake redis; do $(BIN)/python -m benchmarks.stores_$$one $(ARGS) || exit 1; done

bench-outage: $(VENV)/local.stamp  ## every store away for five minutes in its turn; ARGS="--stores lake --minutes 1"
	@$(BIN)/python -m benchmarks.stores_outage $(ARGS)

lock:  ## resolve the lock files anew from pyproject.toml (needs uv)
	@for f in "service" "local --extra local" "dev --extra local --extra research --extra dev" "bench --extra local --extra bench"; do set -- $$f; n=$$1; shift; \
	  echo setuptools | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate $$@ pyproject.toml - -o requirements/$$n.lock || exit 1; done
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate requirements/rivals.in -o requirements/rivals.lock
	@for f in "mlfinpy 3.11" "risklabai 3.12" "nautilus 3.12"; do set -- $$f; \
	  uv pip compile --quiet --universal --python-version $$2 --generate-hashes --no-header --no-emit-index-url --no-annotate requirements/rivals-$$1.in -o requirements/rivals-$$1.lock || exit 1; done

clean:  ## stop the local stack and remove all that make made
	@-$(BIN)/ravenctl local down 2>/dev/null
	@rm -rf $(VENV) .venv-bench .venv-rivals .venv-rivals-* .raven
