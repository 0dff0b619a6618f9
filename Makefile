# make            the main job: set-up, then the whole workflow
# make run PHOTOS=FOLDER    the same with your own photos (FOLDER/person/photo.jpg)
# make test       the tests
# make help       the other targets

VENV := .venv
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
EXTRAS := $(VENV)/.installed-extras
REPORT := results/report.html
PHOTOS ?=
HALF := $(addprefix tests/,app cli compute config docs evaluation masking models recognition report training)  # of the tests, by time
OUT ?= results-mine
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := all
.PHONY: all run install extras dev test test-all app check lint types format lock schema readme tiny clean help

all: install ## Run the workflow and write the report
	@[ -e results/verdict.json ] || facemae estimate --config config.yaml
	snakemake --cores all
	@[ $(REPORT) -nt results/report/overview.html ] || snakemake --quiet all --report $(REPORT)
	@facemae where --config config.yaml

run: install ## Train and evaluate on your own photos: make run PHOTOS=FOLDER [OUT=results-mine]
	@facemae run --photos "$(PHOTOS)" --out "$(OUT)"

install: $(STAMP) ## Set up .venv from requirements.lock

$(STAMP): requirements.lock requirements-uv.lock setup.sh
	sh setup.sh $(VENV)
	@touch $@

extras: $(EXTRAS) ## Add what ONNX, a gallery on PostgreSQL, clusters, login and UMAP take

$(EXTRAS): $(STAMP) requirements-extras.lock
	sh setup.sh $(VENV) requirements-extras.lock
	@touch $@

dev: $(DEV) ## Add what tests and checks take

$(DEV): $(STAMP) requirements-dev.lock
	sh setup.sh $(VENV) requirements-dev.lock
	@touch $@

test: dev ## Run the tests, in two processes
	@log=$$(mktemp); pytest -q -p no:cacheprovider $(HALF) > $$log 2>&1 & \
	pytest -q $(HALF:%=--ignore=%); second=$$?; \
	wait $$!; first=$$?; cat $$log; rm $$log; exit $$((first | second))

test-all: dev ## Run every test, the slow ones and those in a browser too, group by group (docs/testing.md)
	sh tests/all.sh

app: install ## Open the app
	streamlit run app.py

check: lint types ## Lint, format, types, imports between packages, and the workflow

types: dev
	mypy

lint: dev
	ruff check .
	ruff format --check .
	lint-imports
	snakefmt --check .
	snakemake --lint
	snakemake --dry-run --quiet all

format: dev ## Format the code
	ruff check --fix .
	ruff format .
	snakefmt .

tiny: install ## Run the whole workflow in about two minutes; its numbers mean nothing
	snakemake --configfile config/tiny.yaml --cores all

COMPILE := uv pip compile --quiet --universal --generate-hashes --custom-compile-command "make lock"
lock: ## Write the lock files again from pyproject.toml (needs uv)
	$(COMPILE) --group default pyproject.toml --output-file requirements.lock
	$(COMPILE) --group extras --constraint requirements.lock pyproject.toml --output-file requirements-extras.lock
	$(COMPILE) --group dev --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock
	$(COMPILE) --group uv --output-file requirements-uv.lock

schema: install ## Write the configuration's JSON schema again
	facemae schema > workflow/schemas/config.schema.json

readme: install ## Write the verdict in results/ into README.md, and its page into docs/results
	python docs/write_results.py --results results --out docs/results
	python docs/write_readme.py

clean: ## Delete every result, log, checkpoint, cache of faces and gallery; photos and the environment stay
	@facemae clean --all --yes

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10
