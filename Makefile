# The verbs of this repository. CONTRIBUTING.md tells what each does.

CARGO ?= cargo
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR

CFLAGS ?= -O2
C_FLAGS := -std=c11 -Wall -Wextra -pedantic -Iinclude $(CFLAGS)
RELEASE := $(abspath $(CARGO_TARGET_DIR))/release
LINK := -L$(RELEASE) -Wl,-rpath,$(RELEASE) -llite_mamba -lm

.PHONY: help demo test bench header clean cargo release tools rust-tests c-tests

help:
	@echo "make demo     forecast CO2 with a streamed model, from C; draws a plot"
	@echo "make test     everything that is tested"
	@echo "make bench    measure speed"
	@echo "make header   remake include/lite_mamba.h from src/ffi"
	@echo "make clean    remove what was built"

demo: release
	$(CC) $(C_FLAGS) examples/c/forecast.c -o $(RELEASE)/forecast $(LINK)
	$(RELEASE)/forecast examples/co2 $(RELEASE)/co2_forecast.svg

test: tools rust-tests c-tests demo

bench: cargo
	$(CARGO) bench --locked

header: cargo
	LITE_MAMBA_UPDATE_HEADER=1 $(CARGO) test --locked --test header

clean: cargo
	$(CARGO) clean

# What the verbs are made of.

cargo:
	@command -v $(CARGO) > /dev/null || { echo "cargo is missing: install Rust 1.89 or newer (https://rustup.rs)" >&2; exit 1; }

release: cargo
	$(CARGO) build --locked --release --lib

tools:
	@tests/tools.sh

rust-tests: cargo
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) test --locked --no-fail-fast
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

# Programs against the libraries as they are shipped, with the fastest instructions and with those that
# every processor has.
c-tests: release
	tests/c/run.sh $(RELEASE)
