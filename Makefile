# The verbs of this repository. CONTRIBUTING.md tells what each does.

CARGO ?= cargo
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR

PREFIX ?= /usr/local
DESTDIR ?=
LIBDIR ?= lib
export DESTDIR LIBDIR

CFLAGS ?= -O2
TARGET := $(abspath $(CARGO_TARGET_DIR))
BUILT := $(TARGET)/built
DEMO := $(TARGET)/demo

.PHONY: help demo install uninstall dist test test-dist bench bench-peers header abi clean cargo release notices tools rust-tests server-tests install-tests abi-tests test-cuda bench-cuda kernels nvrtc cuda-tests

help:
	@echo "make demo       forecast CO2 with a streamed model, from C; draws a plot"
	@echo "make install    library, headers, pkg-config and CMake files, into PREFIX (/usr/local)"
	@echo "make uninstall  removes them"
	@echo "make dist       the archive that is shipped, in target/dist"
	@echo "make test       everything that is tested"
	@echo "make test-dist  the tests of all languages, against the unpacked archive"
	@echo "make bench      measure speed; bench-peers: beside PyTorch, installed into target/peers"
	@echo "make test-cuda  the tests that need an NVIDIA GPU; bench-cuda: measure speed there"
	@echo "make kernels    remake the PTX files of src/cuda/kernels from layer.cu"
	@echo "make header     remake include/lite_mamba.h from src/ffi"
	@echo "make abi        remake packaging/abi after a compatible change of the C ABI"
	@echo "make clean      remove what was built"

demo: release
	DESTDIR= LIBDIR=lib packaging/install.sh $(BUILT) $(DEMO)
	$(CC) -std=c11 -Wall -Wextra -pedantic $(CFLAGS) -I$(DEMO)/include examples/c/forecast.c -o $(DEMO)/forecast \
		-L$(DEMO)/lib -Wl,-rpath,$(DEMO)/lib -llite_mamba -lm
	$(DEMO)/forecast examples/co2 $(DEMO)/co2_forecast.svg

# Under sudo there is often no cargo: what was built before is then installed.
install: $(if $(shell command -v $(CARGO)),release notices)
	packaging/install.sh $(BUILT) $(abspath $(PREFIX))

uninstall:
	packaging/install.sh --uninstall $(BUILT) $(abspath $(PREFIX))

dist: cargo
	packaging/dist.sh

test: tools rust-tests server-tests cuda-tests test-dist abi-tests install-tests demo

test-dist: dist
	tests/dist.sh

bench: cargo
	$(CARGO) bench --locked

bench-peers: release
	python3 -m venv $(TARGET)/peers
	$(TARGET)/peers/bin/pip install -q lite-mamba==0.2.6 einops numpy safetensors torch
	$(TARGET)/peers/bin/python benches/peers.py $(TARGET)/release/liblite_mamba.so

# One test at a time: a graph is captured while nothing else calls the driver. Memory and races are checked in fewer cases.
CUDA_TESTS = $(CARGO) test --locked --features cuda --test cuda -- --include-ignored --test-threads=1
SANITIZED = CARGO_TARGET_$$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)_RUNNER="compute-sanitizer --error-exitcode 1 --tool
test-cuda: cargo
	$(CUDA_TESTS)
	@if command -v compute-sanitizer > /dev/null; then set -e; \
		PROPTEST_CASES=6 $(SANITIZED) memcheck" $(CUDA_TESTS); \
		PROPTEST_CASES=2 $(SANITIZED) racecheck" $(CUDA_TESTS) a_captured a_layer_on infinite lengths random sixteen steps_of; \
		PROPTEST_CASES=2 $(SANITIZED) synccheck" $(CUDA_TESTS) a_layer_on sixteen; \
	else echo "compute-sanitizer is not on the PATH: not run" >&2; fi

bench-cuda: cargo
	$(CARGO) bench --locked --features cuda --bench cuda

kernels: nvrtc
	python3 src/cuda/kernels/build.py $(NVRTC)

header: cargo
	LITE_MAMBA_UPDATE_HEADER=1 $(CARGO) test --locked --test header

abi: dist
	packaging/abi.sh --update $(TARGET)/dist/unstripped.so include/lite_mamba.h packaging/abi

clean: cargo
	$(CARGO) clean

# What the verbs are made of.

cargo:
	@command -v $(CARGO) > /dev/null || { echo "cargo is missing: install Rust 1.89 or newer (https://rustup.rs)" >&2; exit 1; }

release: cargo
	$(CARGO) build --locked --release --lib $$(packaging/features.sh "$$(rustc -vV | sed -n 's/^host: //p')")
	packaging/finish.sh $(TARGET)/release $(BUILT)

notices: cargo
	packaging/third_party.py "$$(rustc -vV | sed -n 's/^host: //p')" $(BUILT)/licenses || \
		echo "what is linked in is installed without its licenses" >&2

# The compiler of the kernels, a library without anything else of CUDA.
NVRTC := $(TARGET)/nvrtc/nvidia/cuda_nvrtc/lib/libnvrtc.so.12
nvrtc:
	@[ -e $(NVRTC) ] || python3 -m pip --version > /dev/null 2>&1 || python3 -m venv $(TARGET)/pip
	@[ -e $(NVRTC) ] || PATH="$(TARGET)/pip/bin:$$PATH" python3 -m pip install -q --no-deps --disable-pip-version-check \
		--root-user-action ignore --target $(TARGET)/nvrtc nvidia-cuda-nvrtc-cu12==12.0.140

# Without a GPU: everything compiles, the kernels are what their source says, and a layer on a GPU is refused with each reason.
cuda-tests: cargo
	@if $(MAKE) --no-print-directory nvrtc; then python3 src/cuda/kernels/build.py $(NVRTC) --check; \
	else echo "NVRTC cannot be had: whether the kernels are their source's was not tested" >&2; [ "$$CI" != true ]; fi
	$(CARGO) clippy --locked --features cuda --all-targets -- -D warnings
	$(CARGO) test --locked --features cuda --test cuda --test cuda_failures

tools:
	@tests/tools.sh

rust-tests: cargo
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) test --locked --no-fail-fast
	$(CARGO) check --locked --quiet --manifest-path fuzz/Cargo.toml
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

server-tests: cargo
	tests/server.sh

abi-tests: dist
	tests/abi.sh $(TARGET)/dist/unstripped.so

install-tests: release notices
	tests/install.sh
