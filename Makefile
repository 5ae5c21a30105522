# Everything a person does daily. Each target installs what it needs.
SHELL := /bin/bash
PY := .venv/bin/python
SEED ?= 0
NODES ?= 12
SUDO := $(shell [ $$(id -u) -eq 0 ] || echo sudo)
export UV_PYTHON_DOWNLOADS ?= automatic
# The wheels need no hub, and a worker per core is plenty.
export HF_HUB_OFFLINE := 1
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export MUJOCO_GL ?= egl
export OMP_WAIT_POLICY := PASSIVE

# Tests of the control loop have the machine, and a process, to themselves; the others share the cores. The whole
# journey, the longest, begins first: like the demo, it goes on beside other work.
# A machine that stands still for a moment fails what measures time: tests that failed run once more, by themselves,
# and the log shows both.
REAL_TIME := tests/sim tests/agent/robot tests/cli/test_record.py tests/cli/test_rollout_on_the_arm.py
OTHERS := tests/e2e $(filter-out tests/e2e $(REAL_TIME),$(wildcard tests/[a-z]*)) $(addprefix --ignore=,$(REAL_TIME))
SHARED := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest --durations=8
ONCE_MORE := --last-failed --last-failed-no-failures none

.PHONY: help install test lint demo simulate base bench-async bench-chunk bench-loop bench-record bench-clocks bench-delay bench-gate bench-interventions bench-learning bench-preempt bench-promotion bench-step soak-demo soak-episodes lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

install: .venv/.installed ## Debian packages, Python 3.12 environment, locked dependencies

.venv/.installed: requirements.lock pyproject.toml deploy/install.sh
	bash deploy/install.sh
	@touch $@

test: install ## ruff, mypy, all tests (slow ones included); one command on a fresh clone
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PYTEST) $(REAL_TIME) || $(PYTEST) $(ONCE_MORE) $(REAL_TIME)
	$(PYTEST) $(SHARED) $(OTHERS) || $(PYTEST) $(ONCE_MORE) $(OTHERS)

lint: install ## ruff and mypy only
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

demo: install ## one coordinator and three virtual workstations teach each other (SEED=n, KEEP=1)
	$(PY) -m cli.main demo --seed $(SEED) $(if $(KEEP),--keep)

simulate: .venv/.simulate ## many virtual nodes under Flower's simulation engine, no SuperLink (NODES=12, STATIONS=n, ROUNDS=n, SEED=n)
	$(PY) -m benchmarks.simulate --nodes $(NODES) --seed $(SEED) \
	  $(if $(STATIONS),--stations $(STATIONS)) $(if $(ROUNDS),--rounds $(ROUNDS))

.venv/.simulate: benchmarks/simulate/requirements.txt .venv/.installed
	@$(PY) -m uv pip install -q --python $(PY) --require-hashes -r $< || { echo "ray and flwr-datasets can't be \
	installed. Python must be 3.12 or 3.13 on Linux; check the network and run make simulate again."; exit 1; }
	@touch $@

base: install ## pretrain the tiny base policy in the simulator (about 25 minutes)
	$(PY) -m sim.pretrain --out sim/base

bench-async: install ## asynchronous against synchronous inference on the virtual arm: time and completions (SEED=n, SCENES=n)
	$(PY) -m benchmarks.bench_async --seed $(SEED) $(if $(SCENES),--scenes $(SCENES))

bench-loop: install ## control loop while recording, beside LeRobot's
	$(PY) -m benchmarks.bench_loop

bench-chunk: install ## an action chunk of the full-size policy, beside LeRobot's; on a GPU too if there is one (SEED=n)
	$(PY) -m benchmarks.bench_chunk --seed $(SEED)

bench-record: install ## two 640x480 cameras at 30 fps: losses and CPU, beside lerobot-record
	$(PY) -m benchmarks.bench_record

bench-clocks: install ## one policy in lockstep and through the serial port: equal success
	$(PY) -m benchmarks.bench_clocks

bench-delay: install ## success at inference delays of 0 to 8 ticks for three ways to join chunks; goes on where it stopped (SEED=n)
	$(PY) -m benchmarks.bench_delay --seed $(SEED)

bench-gate: install ## what the gate finds in a corpus of broken and sound episodes, beside public checkers (SEED=n, PEERS=0)
	$(PY) -m benchmarks.bench_gate --seed $(SEED) $(if $(filter 0,$(PEERS)),--no-peers)

bench-interventions: install ## what ten interventions are worth against ten more demonstrations, in simulation; goes on where it stopped (SEEDS="0 1 2")
	$(PY) -m benchmarks.bench_interventions $(if $(SEEDS),--seeds $(SEEDS))

bench-learning: install ## federated against pooled training in simulated time: hours, goes on where it stopped (SEEDS="0 1 2", ARMS="async sync")
	$(PY) -m benchmarks.learning --docs docs/learning $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ARMS),--arms $(ARMS))

bench-preempt: install ## how soon the trainer is gone when the operator wants the busy machine (SEED=n)
	$(PY) -m benchmarks.bench_preempt --seed $(SEED)

bench-promotion: install ## false promotions and roll-backs, power and rollouts of comparing two versions (SEED=n)
	$(PY) -m benchmarks.bench_promotion --seed $(SEED)

bench-step: install ## a training step of the full-size policy from the cache, beside LeRobot's (SEED=n)
	$(PY) -m benchmarks.bench_step --seed $(SEED)

soak-demo: install ## a small demo in which every kind of process is killed once
	$(PY) -m benchmarks.soak_demo

soak-episodes: install ## SIGKILL at hundreds of points of recording, gate, training set, import: nothing is lost (SEED=n)
	$(PY) -m benchmarks.soak_episodes --seed $(SEED)

lock: ## resolve the dependencies again into requirements.lock
	$(PY) -m uv pip compile --python 3.12 --generate-hashes --no-header --all-extras \
	  --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock
	$(PY) -m uv pip compile --python 3.12 --generate-hashes --no-header --constraints requirements.lock \
	  --no-emit-index-url --no-emit-find-links benchmarks/simulate/requirements.in \
	  -o benchmarks/simulate/requirements.txt

clean: ## remove what demo and tests leave
	rm -rf async-run demo-run demo-report.json simulate-run simulate.json bench-*.json soak-*.json .pytest_cache .mypy_cache .ruff_cache .hypothesis
