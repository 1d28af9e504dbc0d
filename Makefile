# What there is to do here; each target installs what it needs. `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo test bench faults soak fuzz lint format lock audit build dist images

PY := .venv/bin/python
ONCE ?=
SHORT ?=
SUBJECT ?=
SEED ?=
ONLY ?=
MINUTES ?= 10
RENEWALS ?= 1000
STANDING ?= 5
GROUPS ?= 5
SERVICE ?= pypi
WORKERS ?= 4
REPRODUCE ?=
BASE ?=
KEY ?=
ENGINE ?= $(shell command -v buildah || command -v docker || echo docker)

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## what all others need: system packages by apt, .venv, node packages; quick when all is there
	@config/dev/setup.sh

demo: setup ## a broker, an agent and a small legacy ERP, and a story told with them; ONCE=1 ends by itself
	@$(PY) -m config.dev.demo $(if $(filter-out 0,$(ONCE)),--once)

test: lint ## ruff, mypy and all tests, on real databases, proxies and a SOAP server; some minutes
	@echo "== pytest"
	@# A worker that dies is not replaced: the next one would begin with the test that the last one died of.
	@PYTHONASYNCIODEBUG=1 $(PY) -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(TESTS)

lint: setup ## ruff and mypy
	@echo "== ruff check"
	@$(PY) -m ruff check --quiet .
	@echo "== ruff format --check"
	@$(PY) -m ruff format --quiet --check .
	@echo "== mypy --strict"
	@$(PY) -m mypy --no-error-summary
	@$(PY) -m mypy --no-error-summary --platform win32 protocol agent

format: setup ## write the code as ruff has it
	@$(PY) -m ruff check --quiet --fix .
	@$(PY) -m ruff format .

bench: setup ## how fast, how small, beside peers it installs; 30 minutes, SUBJECT=rows for one, SHORT=1 for some seconds only
	@$(PY) -m bench $(foreach subject,$(SUBJECT),--only $(subject)) $(if $(filter-out 0,$(SHORT)),--short \
	  --output .dev/bench-short.json --page .dev/performance.md,--output .dev/bench.json --page docs/reference/performance.md)

faults: setup ## every place with every fault, and what callers, broker, agent and ERP have of it; SEED=n ONLY=k again
	@$(PY) -m tests.faults $(if $(SEED),--seed $(SEED)) $(if $(ONLY),$(foreach number,$(ONLY),--only $(number)),--large 1073741824)

soak: setup ## long runs under faults: 20 callers MINUTES=10, a group GROUPS=5, states STANDING=5 minutes, RENEWALS=1000
	@$(PY) -m tests.faults --soak $(MINUTES) $(if $(SEED),--seed $(SEED))
	@$(PY) -m tests.faults --groups $(GROUPS) $(if $(SEED),--seed $(SEED))
	@$(PY) -m tests.faults --standing $(STANDING)
	@$(PY) -m tests.faults --renewals $(RENEWALS) $(if $(SEED),--seed $(SEED))

fuzz: setup ## every reader of foreign bytes under atheris, MINUTES=10 for all together; finds in .dev/fuzz/finds
	@$(PY) -m pip install -qq --disable-pip-version-check --no-input --no-deps --require-hashes -r requirements/fuzz.txt
	@$(PY) -m tests.fuzz --minutes $(MINUTES)

lock: ## requirements/*.txt and NOTICE anew from pyproject.toml (UPGRADE=1: newer releases)
	@config/dev/lock.sh

audit: setup ## is a package that we lock known to be vulnerable? asks PyPI (SERVICE=osv: OSV) and npm; 3: could not ask
	@$(PY) -m config.dev.audit $(SERVICE)

build: setup ## wheel, sdist, a bill of materials (CycloneDX) for each program and their SHA-256, of HEAD, in dist/
	@$(PY) -m config.dev.build

images: build ## container images of broker and agent, by buildah or docker; BASE=image to begin with another Debian
	@for program in broker agent; do \
	  $(ENGINE) build -f installer/container/$$program.Containerfile $(if $(BASE),--build-arg BASE=$(BASE)) \
	    -t outhaul-$$program . || exit 1; done

dist: setup ## the agent frozen, for Windows under wine, its packages, bill of materials and digests; REPRODUCE=1 twice, compared; KEY=file signs
	@$(PY) -m installer.dist --output dist/linux $(if $(filter-out 0,$(REPRODUCE)),--reproduce)
	@if command -v wine >/dev/null; then $(PY) -m config.dev.msi dist/windows; fi
	@$(if $(KEY),$(PY) -m installer.sign --key $(KEY) dist/linux/*.deb dist/linux/*.rpm dist/linux/*.tar.xz)
	@$(if $(KEY),for msi in dist/windows/*.msi; do [ ! -e "$$msi" ] || $(PY) -m installer.sign --key $(KEY) --system windows-x86_64 "$$msi"; done)
