# make serve | dev | test | test-full | test-clients | lint | bench | clean
PYTHON ?= python3
PORT ?= 8080
SERVE := .venv
TEST := .venv-test
SPARK := .venv-spark
# What `make bench` measures with. Its help needs no package, and the indexes need no torch.
BENCH := $(TEST)/bin/python
BENCH_NEEDS := $(TEST)/installed-bench
ifneq ($(filter -h --help,$(ARGS)),)
BENCH := $(PYTHON)
BENCH_NEEDS :=
else ifneq ($(filter --index,$(ARGS)),)
ifeq ($(wildcard $(TEST)/installed-bench),)
BENCH := .venv-index/bin/python
BENCH_NEEDS := .venv-index/installed
endif
endif
ifneq ($(filter --spark,$(ARGS)),)
BENCH_NEEDS += $(SPARK)/installed
endif
# The environments of tests/clients: packages of one file fit together, those of two may not.
CLIENTS := $(patsubst tests/clients/requirements/%.txt,.venv-clients-%,$(wildcard tests/clients/requirements/*.txt))

.PHONY: help serve dev test test-full test-clients lint bench clean

help:
	@echo "make serve      install what serving needs and answer on port $(PORT) (PORT=..., MODEL=...)"
	@echo "make dev        the same, restarting whenever a source file changes"
	@echo "make test       install what the tests need and run them"
	@echo "make test-full  also the tests that take minutes: full-size architectures, Spark"
	@echo "make test-clients  run the packages that people call such services with (needs npm)"
	@echo "make lint       check style and types only"
	@echo "make bench      start-up, latency, CPU and memory, side by side in one run"
	@echo "                (MODEL=NAME or MODEL=catalogue: what models of the catalogue cost;"
	@echo "                ARGS=--help: starts, throughput, memory, a soak, ...)"
	@echo "make clean      remove the virtual environments and everything built"

serve: $(SERVE)/installed
	@exec env PORT=$(PORT) $(SERVE)/bin/python -m dev.server

dev: $(SERVE)/installed
	@exec env PORT=$(PORT) $(SERVE)/bin/python -m dev.server --reload

test: lint
	$(TEST)/bin/python -m pytest -m "not full and not clients" -n 3 --dist loadfile --no-loadscope-reorder

test-full: lint $(SPARK)/installed
	$(TEST)/bin/python -m pytest -m "not clients"

test-clients: $(TEST)/installed $(CLIENTS:%=%/installed) build/clients/installed
	$(TEST)/bin/python -m pytest tests/clients

lint: $(TEST)/installed
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy

bench: $(BENCH_NEEDS)
	@$(BENCH) -m tests.bench $(if $(MODEL),--models $(MODEL)) $(ARGS)

clean:
	rm -rf $(SERVE) $(TEST) $(SPARK) $(CLIENTS) .venv-index build .mypy_cache .ruff_cache .pytest_cache

# A stamp is written only when an installation went through, so an interrupted one is done again.
$(SERVE)/installed: requirements.txt dev/requirements.txt
	@echo "installing what serving needs into $(SERVE) ..."
	@$(PYTHON) -m venv $(SERVE)
	@$(SERVE)/bin/pip install --quiet --disable-pip-version-check -r dev/requirements.txt
	@touch $@

$(TEST)/installed: requirements.txt dev/requirements.txt model_cache/requirements.txt tests/requirements.txt \
  tests/bench/requirements-index.txt
	@echo "installing what the tests need into $(TEST) (torch is large) ..."
	@$(PYTHON) -m venv $(TEST)
	@$(TEST)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

$(TEST)/installed-bench: $(TEST)/installed tests/bench/requirements.txt
	@$(TEST)/bin/pip install --quiet --disable-pip-version-check -r tests/bench/requirements.txt
	@touch $@

.venv-index/installed: requirements.txt tests/bench/requirements-index.txt
	@echo "installing what measuring the indexes needs into .venv-index ..."
	@$(PYTHON) -m venv .venv-index
	@.venv-index/bin/pip install --quiet --disable-pip-version-check -r tests/bench/requirements-index.txt
	@touch $@

# Tests take the library from the checkout.
$(SPARK)/installed: requirements.txt pipelines/requirements.txt pipelines/requirements-worker.txt
	@echo "installing Spark into $(SPARK) (a Java is needed, too) ..."
	@$(PYTHON) -m venv $(SPARK)
	@$(SPARK)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt -r pipelines/requirements.txt
	@touch $@

.venv-clients-%/installed: tests/clients/requirements/%.txt
	@echo "installing the clients of $< into $(@D) ..."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

build/clients/installed: tests/clients/package.json
	@echo "installing the clients of $< into $(@D) ..."
	@mkdir -p $(@D)
	@cp $< $(@D)
	@npm install --prefix $(@D) --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@
