# `make` alone says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Where toolchains usually are when a shell has not been told.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/go/bin:/usr/sbin:/sbin

# Network namespaces need root. Everything is built as whoever calls make; what must run as root goes
# through sudo then. Without sudo, tests/setup.sh says that it is needed.
ROOT := $(if $(filter 0,$(shell id -u)),,$(shell command -v sudo))
ifneq ($(ROOT),)
RUNNER := --config 'target."cfg(unix)".runner = "sudo -E"'
endif

# The control plane's programs: CLUSTER_BIN if it is set, else where tests/cluster/build.sh puts them.
CLUSTER = export CLUSTER_BIN="$${CLUSTER_BIN:-$$(tests/cluster/build.sh --print-dir)}"

# For the tests' own harness: which tests to run, and how. For example: make e2e ARGS='wordpress --nocapture'
ARGS ?=

say = @printf '\n==> %s\n' "$(1)"

.PHONY: help setup setup-demo setup-bench cluster build crds lint unit e2e test demo bench clean

help:
	@printf '%s\n' \
	  'endpoints-operator gives hosts outside a Kubernetes cluster a Service with health checks.' \
	  '' \
	  '  make demo      see it at work: a real control plane, three web servers, one of them dies (1 min)' \
	  '  make test      everything that must hold: format, lints, unit tests, end-to-end tests' \
	  '' \
	  'Both set up what they need. The first time, that is the packages of tests/setup.sh and a control' \
	  'plane, which is built from source: 8 min on two cores, once per machine.' \
	  '' \
	  'On the way to a change:' \
	  '  make build     the operator and cepctl, in target/debug' \
	  '  make lint      format and clippy' \
	  '  make unit      unit and documentation tests' \
	  '  make e2e       end-to-end tests on a real control plane; one of them, with all that it prints:' \
	  "                 make e2e ARGS='the_published_manifest --nocapture'" \
	  '  make crds      write crds/ anew after a change of the API types' \
	  '  make bench     the figures of the README, also as JSON in target/bench.json' \
	  '' \
	  'What the others lean on:' \
	  '  make setup     install packages that are missing (Debian, Ubuntu)' \
	  '  make cluster   build etcd, kube-apiserver, kube-proxy and the like into ~/.cache/endpoints-operator' \
	  '  make clean     remove target/, but not ~/.cache/endpoints-operator' \
	  '' \
	  'Needed: Linux, root or sudo (for network namespaces), Rust 1.95 (rustup), Go 1.26 (or 1.21, which' \
	  'fetches it). CLUSTER_BIN or KUBEBUILDER_ASSETS name a control plane that you have already.'

setup:
	$(call say,setup: packages that are missing (none: a moment; else a minute))
	@$(ROOT) env "PATH=$$PATH" "HOME=$$HOME" tests/setup.sh base
	@tests/setup.sh toolchains

setup-demo: setup
	@$(ROOT) env "PATH=$$PATH" "HOME=$$HOME" tests/setup.sh demo

setup-bench: setup
	@$(ROOT) env "PATH=$$PATH" "HOME=$$HOME" tests/setup.sh bench

cluster: setup
	$(call say,cluster: the control plane (built already: a moment; else 8 min on two cores, once per machine))
	@[ -n "$${CLUSTER_BIN:-}" ] || tests/cluster/build.sh >/dev/null

build:
	$(call say,build: the operator and cepctl (the first time 3 min on two cores))
	@cargo build --workspace --bins

crds:
	$(call say,crds: from the types in operator/core/src/api)
	@cargo run --quiet -p endpoints-operator -- crd >target/crd.yaml
	@mv target/crd.yaml crds/clusterendpoints.sealyun.com.yaml

lint:
	$(call say,lint: format and clippy (the first time 3 min on two cores))
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --all-features -- -D warnings

unit:
	$(call say,unit: unit and documentation tests (the first time 4 min on two cores))
	@cargo test --workspace --exclude endpoints-operator-tests
	@cargo $(RUNNER) test -p endpoints-operator-tests --lib

e2e: cluster build
	$(call say,e2e: end-to-end tests on a real control plane (about 12 min on two cores))
	@$(CLUSTER); RUST_BACKTRACE=0 cargo $(RUNNER) test -p endpoints-operator-tests --test e2e -- --test-threads=2 $(ARGS)

test: setup lint unit e2e

demo: setup-demo cluster build
	$(call say,demo (1 min))
	@$(CLUSTER); $(ROOT) env CLUSTER_BIN="$$CLUSTER_BIN" target/debug/demo

bench: setup-bench cluster
	$(call say,bench: figures of this machine (builds optimised: the first time 6 min on two cores))
	@cargo build --release -p endpoints-operator --bins
	@$(CLUSTER); cargo $(RUNNER) run --release -p endpoints-operator-tests --features bench --bin bench

clean:
	@cargo clean
	@echo 'The control plane stays in ~/.cache/endpoints-operator; remove it by hand if you must.'
