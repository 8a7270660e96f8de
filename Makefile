# `make` prints the targets. Everything runs from the virtual environment in .venv.
PYTHON ?= python3
SEED ?= 1
VENV := .venv
BIN := $(VENV)/bin
DISTRIBUTIONS := protos services/runtime demo services/generator services/restorer gateway
STAMP := $(VENV)/.atelier-setup
IMAGE := protos/v1.binpb
EVERYDAY := not slow and not gpu and not oracle
# Two processes, each with whole files: fixtures of a file are made once. Each takes up to 4 GiB.
PARALLEL ?= -n 2 --dist loadfile
# Threads that wait do not spin, as in the services: beside another process that takes seven times the CPU time.
test test-slow: export OMP_WAIT_POLICY ?= passive
# All that concerns the gateway and the checks of a request, but for the requests that schemathesis generates:
# they take as long as the rest together. Of the runtime, what needs neither image files nor a running service;
# nothing that waits for a deadline.
SERVING := $(wildcard tests/unit/runtime/test_image*.py) \
  $(addprefix tests/unit/runtime/,test_server.py test_device_worker.py test_upscaler.py test_weights.py)
FAST := tests/contract tests/unit/gateway tests/unit/test_layering.py \
  $(filter-out $(SERVING),$(wildcard tests/unit/runtime/test_*.py)) \
  $(wildcard tests/unit/*/test_request*.py tests/unit/*/test_convert*.py) \
  --ignore tests/contract/test_openapi_examples.py
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup run test-fast test test-slow test-cluster test-images test-gpu test-parity lint studio screenshots docs \
  protos protos-image bench fuzz chaos models \
  demo-train demo-eval demo-pictures clean

help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv with everything in it, build the stubs; safe to repeat

$(STAMP): constraints.txt pyproject.toml protos/generate.sh $(wildcard protos/atelier/*/v1/*.proto) $(addsuffix /pyproject.toml,$(DISTRIBUTIONS))
	@# without Debian's python3-venv the first try leaves an environment that has no pip
	$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip setuptools wheel grpcio-tools
	protos/generate.sh $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --group dev \
	  $(addprefix --editable ./,$(DISTRIBUTIONS))
	touch $@

protos: $(STAMP) ## format and check the protos, build the gRPC stubs
	$(BIN)/buf format protos --write
	$(BIN)/buf lint protos
	protos/generate.sh $(BIN)/python

protos-image: $(STAMP) ## after additions to the protos: record them in the image that `make lint` compares with
	$(BIN)/buf breaking protos --against $(IMAGE)
	$(BIN)/buf build protos --exclude-source-info --output $(IMAGE)

run: $(STAMP) ## start gateway, generator and restorer on the demo models; Ctrl-C stops all three
	@exec $(BIN)/python -m tools.run

test-fast: $(STAMP) ## the tests of the gateway and of a request's checks, under a minute on two cores
	$(BIN)/python -m pytest -m "$(EVERYDAY)" -k "not deadline" $(FAST)

test: $(STAMP) ## the tests, in two processes; half an hour or so on two cores
	$(BIN)/python -m pytest $(PARALLEL) -m "$(EVERYDAY)"

test-slow: $(STAMP) ## the tests that take longer
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not cluster and not images and not gpu and not oracle"

test-cluster: $(STAMP) ## run the Kubernetes manifests as processes: rollouts, pods that die, autoscaling; about 20 minutes
	$(BIN)/python -m pytest -s tests/k8s/test_cluster_*.py

test-images: $(STAMP) ## build the images with buildah, start them and draw; needs root, buildah, debootstrap, 6 GB
	$(BIN)/python -m pytest -s -m images tests/k8s

test-gpu: $(STAMP) ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

test-parity: $(STAMP) ## install the reference's packages, one of them for non-commercial use only, and compare
	@# without isolation: basicsr's build asks for torch, and would be given a second one
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --group parity
	$(BIN)/python -m pytest -m oracle tests/parity

lint: $(STAMP) ## ruff, mypy, buf, and whether the generated sections of the docs are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint protos
	$(BIN)/buf format protos --diff --exit-code
	$(BIN)/buf breaking protos --against $(IMAGE)
	@$(BIN)/buf build protos --exclude-source-info --output - | cmp --silent - $(IMAGE) || \
	  { echo '$(IMAGE) is not up to date: run make protos-image'; exit 1; }
	$(BIN)/python -m tools.docs --check

studio: $(STAMP) ## build the page that the gateway serves, from gateway/studio
	$(BIN)/python -m tools.studio

screenshots: $(STAMP) ## take the pictures of the page that the docs show
	$(BIN)/python -m tools.screenshots $(if $(URL),--url '$(URL)') $(if $(TO),--to '$(TO)')

docs: $(STAMP) ## rewrite the parts of the docs that are generated from the code, and the rules of compose.yaml
	$(BIN)/python -m tools.docs
	$(BIN)/python -m tools.rules

bench: $(STAMP) ## time the chain through /generate; prints JSON
	$(BIN)/python -m bench.generate

fuzz: $(STAMP) ## send random requests and messages to all processes, minutes; EXAMPLES=n, SEED=n for the same again
	$(BIN)/python -m bench.fuzz $(if $(EXAMPLES),--examples '$(EXAMPLES)') $(if $(filter-out file default,$(origin SEED)),--seed '$(SEED)')

chaos: $(STAMP) ## load and faults: what is promised, beside what it is here; up to 20 minutes, writes docs/reliability.md
	$(BIN)/python -m bench.chaos --write docs/reliability.md

# make models TO=/models/sdxl ACCEPT="s-lab parsenet"; the variables are the flags of `python -m tools.models --help`
models: $(STAMP) ## download the published weights into TO=folder; LIST=1 only lists them
	$(BIN)/python -m tools.models $(if $(TO),--to '$(TO)') $(if $(LIST),--list) $(if $(YES),--yes) \
	  $(if $(PROFILE),--profile '$(PROFILE)') $(if $(WITH),--with $(WITH)) \
	  $(if $(ACCEPT),--accept $(ACCEPT)) $(if $(ONLY),--only $(ONLY)) $(if $(WITHOUT),--without $(WITHOUT)) \
	  $(if $(FROM),--from '$(FROM)') $(if $(MIRROR),--mirror '$(MIRROR)') $(if $(CATALOGUE),--catalogue '$(CATALOGUE)')

demo-train: $(STAMP) ## train the demo models (resumable); SMOKE=1 takes a minute
	PYTHONPATH=demo $(BIN)/python -m training --out .runs $(if $(SMOKE),--smoke)

demo-eval: $(STAMP) ## score the demo models; SEED=n, QUICK=1 in minutes, PROMPTS=file, SET=folder
	PYTHONPATH=demo $(BIN)/python -m training.evaluate --seed $(SEED) $(if $(QUICK),--quick) \
	  $(if $(PROMPTS),--prompts '$(PROMPTS)') $(if $(SET),--set '$(SET)')

demo-pictures: $(STAMP) ## make the README's pictures from the demo models; SET=folder
	PYTHONPATH=demo $(BIN)/python -m training.showcase --to docs $(if $(SET),--set '$(SET)')

clean: ## remove what was built, and the logs and jobs of `make run`, not .venv
	rm -rf $(STAMP) protos/gen .run .runs .pytest_cache .mypy_cache .ruff_cache
