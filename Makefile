# make            the main job: set-up, then the whole workflow
# make test       the tests
# make help       the other targets

VENV := .venv
STAMP := $(VENV)/.installed
REPORT := results/report.html
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := all
.PHONY: all install test app check format lock schema readme tiny clean help

all: install ## Run the workflow and write the report
	snakemake --cores all
	@[ $(REPORT) -nt results/report/overview.html ] || snakemake --report $(REPORT)
	@python -m facemae where --config config.yaml

install: $(STAMP) ## Set up .venv from requirements.lock

$(STAMP): requirements.lock setup.sh
	sh setup.sh $(VENV)
	@touch $@

test: install ## Run the tests
	pytest

app: install ## Open the app
	streamlit run app.py

check: install ## Lint, format and type checks, and the workflow's own
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check .
	snakemake --lint
	snakemake --dry-run --quiet all

format: install ## Format the code
	ruff check --fix .
	ruff format .
	snakefmt .

tiny: install ## Run the whole workflow in about a minute; its numbers mean nothing
	snakemake --configfile config/tiny.yaml --cores all

lock: ## Write requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --generate-hashes --group dev \
		--custom-compile-command "make lock" pyproject.toml --output-file requirements.lock

schema: install ## Write the configuration's JSON schema anew
	python -m facemae schema > workflow/schemas/config.schema.json

readme: install ## Write the verdict in results/ into README.md, and its page in docs/results
	python -m facemae readme --file README.md --results results
	python -m facemae document --results results --out docs/results

clean: ## Delete results, logs and checkpoints; the environment stays
	rm -rf results results-tiny logs .snakemake

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10
