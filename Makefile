# `make` lists the targets.
CARGO_FLAGS ?= --locked

.PHONY: help run build test lint bench bench-images bench-rollout crds image cluster-tools e2e cluster-up cluster-down

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## Serve manifests/samples on https://127.0.0.1:8443, certificates made on the way.
	target/release/outrigger manager --standalone manifests/samples --cert-dir certs --example manifests/reviews/web.json

build: ## Build the release binary, target/release/outrigger.
	cargo build --release $(CARGO_FLAGS)

cluster-tools: ## Build the Kubernetes that tests start (minutes, once), or find it in KUBEBUILDER_ASSETS.
	tests/cluster/tools/build

test: cluster-tools ## Run all tests but those on a node.
	cargo test $(CARGO_FLAGS)

e2e: image ## Run the tests on a node: containers of real images. Root on Debian; installs what is missing.
	tests/e2e/prepare
	tests/cluster/tools/build node
	cargo test $(CARGO_FLAGS) --test e2e
	cargo test $(CARGO_FLAGS) --test disturbance

cluster-up: ## Start that Kubernetes to play with, Outrigger inside; as root with a node; prints where its kubeconfig is.
	@[ "$$(id -u)" != 0 ] || tests/e2e/prepare
	tests/cluster/tools/build node
	cargo build $(CARGO_FLAGS) --bin outrigger --example cluster
	@tests/cluster/tools/up target/debug/examples/cluster

cluster-down: ## Stop it.
	@tests/cluster/tools/down

lint: ## Check format, lints, and that what decides stays free of I/O.
	cargo fmt --check
	cargo clippy --all-targets $(CARGO_FLAGS) -- -D warnings
	cargo clippy --test e2e --test disturbance --bench load --bench rollout --bench images $(CARGO_FLAGS) -- -D warnings
	.ci/pure
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	else echo "cargo-deny is not installed: bans, licences and sources were NOT checked"; fi

crds: ## Write manifests/crds from the Rust types.
	cargo run --quiet $(CARGO_FLAGS) -- crds --operator-namespace kruise-system --dir manifests/crds

STATIC := $(shell rustc -vV | sed -n 's/^host: //p')
comma := ,
# What is the same is there once, and relocations take a tenth of the room: a node has less resident. The linker of Rust
# for this platform knows how.
SMALL := $(if $(filter x86_64-unknown-linux-gnu,$(STATIC)),-C link-arg=-Wl$(comma)--icf=all -C link-arg=-Wl$(comma)-z$(comma)pack-relative-relocs)
# A static binary: an image that holds nothing else cannot miss a library.
IMAGE ?= outrigger:latest

SHIPPED := target/$(STATIC)/release/outrigger

image: ## Pack a static binary into target/image/outrigger.tar, an OCI archive, without Docker.
	RUSTFLAGS='$(SMALL) -C target-feature=+crt-static' cargo build --release $(CARGO_FLAGS) --target $(STATIC) --bin outrigger
	packaging/image $(SHIPPED) $(IMAGE) target/image/outrigger.tar

bench: ## Measure ours against a no-op webhook on the same stack, and the pure core.
	@for tool in wrk:wrk h2load:nghttp2-client curl:curl taskset:util-linux; do \
	  command -v "$${tool%%:*}" >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq "$${tool##*:}"; } \
	    || { echo "$${tool%%:*} is missing; install the Debian package $${tool##*:}"; exit 1; }; \
	done
	cargo build --release $(CARGO_FLAGS) --bins --example noop
	cargo bench $(CARGO_FLAGS) --bench load
	cargo bench $(CARGO_FLAGS) --bench core

N ?= 1000

bench-rollout: cluster-tools image ## Roll an image out to N=1000 pods on a real API server, against as many bare PATCH calls.
	OUTRIGGER=$(CURDIR)/$(SHIPPED) N=$(N) cargo bench $(CARGO_FLAGS) --bench rollout

JOBS ?= 200

# The API server has most of the work, and a third of that would be its garbage collection.
bench-images: export GOGC ?= 400
bench-images: export GOMEMLIMIT ?= 12GiB
bench-images: cluster-tools ## Pull JOBS=200 images on N=1000 simulated nodes; fails when parallelism, writes or sizes are too many.
	N=$(N) JOBS=$(JOBS) cargo bench $(CARGO_FLAGS) --bench images
