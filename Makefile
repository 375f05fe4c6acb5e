# chat, test, test-arm, check, bench, cria: each sets up what it needs in .venv first; web and web-test in web/node_modules.
PYTHON ?= python3
BIN := .venv/bin
CPP := $(shell find cpp -name '*.cpp' -o -name '*.hpp') CMakeLists.txt pyproject.toml
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# What `make chat` talks to. make chat MODEL=path chooses another.
MODEL ?= cria

.PHONY: chat test test-arm check format bench cria web web-test clean

chat: .venv/.installed
	@$(BIN)/python -m pronk chat $(MODEL)

test: .venv/.tools .venv/.peers
	$(BIN)/python -m pytest

# The NEON kernels on a machine that is no ARM, where its packages are (Debian: g++-aarch64-linux-gnu, qemu-user).
test-arm: .venv/.tools
	$(BIN)/python -m pytest -rs tests/unit/native/test_cross_arm.py

check: .venv/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/clang-format --dry-run --Werror $(filter-out CMakeLists.txt pyproject.toml,$(CPP))

format: .venv/.tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(filter-out CMakeLists.txt pyproject.toml,$(CPP))

bench: .venv/.tools .venv/.peers
	$(BIN)/python benchmarks/cpu_vs_peers.py --rows prefill,decode --types F16,Q8_0,Q4_K_M

# Trains the built-in model again, from nothing: under three hours on two cores. Killed, it goes on where it was.
cria: .venv/.tools
	$(BIN)/python -m recipes.cria

# The chat page: built from web/ into src/pronk/server/page/, which is committed. Only who changes it needs Node (20.19 or newer).
web: web/node_modules/.installed
	cd web && npm run build

web-test: web/node_modules/.installed
	cd web && npm run types && npm test

web/node_modules/.installed: web/package-lock.json
	cd web && npm ci
	@touch $@

clean:
	rm -rf build .venv web/node_modules

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python $(CPP)
	@echo "Building pronk (about a minute, once)..."
	$(PIP) --editable .
	@touch $@

.venv/.tools: .venv/bin/python $(CPP) constraints.txt
	$(PIP) --constraint constraints.txt --editable ".[dev]"
	@touch $@ .venv/.installed

# llama.cpp, the peer that tests and benchmarks compare with; it compiles for some minutes, once. Without AMX: a virtual
# machine may announce it and not grant it, and llama.cpp then crashes.
NO_AMX := -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
PEER_FLAGS := $(if $(filter x86_64,$(shell uname -m)),-DCMAKE_C_FLAGS='$(NO_AMX)' -DCMAKE_CXX_FLAGS='$(NO_AMX)')
.venv/.peers: .venv/bin/python constraints.txt
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF $(PEER_FLAGS)" $(PIP) --constraint constraints.txt llama-cpp-python
	@touch $@
