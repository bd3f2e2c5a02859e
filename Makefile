# Runs, tests and measures the functions on one machine. Rust (rustup), a C compiler and, on Debian, apt-get are
# enough: the rest is installed by `dev`. A parameter is set like this: make up LISTEN=127.0.0.1:3001

# Where the application listens, and what it works with.
LISTEN ?= 127.0.0.1:3000
REDIS_URL ?= redis://127.0.0.1:6379
STATE_DIR ?= .spin
# auto: Spin where it is on the PATH, else the stand-in host (tests/host). Or spin, or host.
RUNTIME ?= auto
# all, or http: without the Redis triggers, and without Redis.
TRIGGERS ?= all
# Where messages go to be seen. SPIN_VARIABLE_PUSH_GATEWAY names another gateway.
GATEWAY_LISTEN ?= 127.0.0.1:3900
# For this machine alone. Nothing else in the repository has a token or a secret.
API_TOKEN ?= dev-token
ADMIN_TOKEN ?= dev-admin-token
GATEWAY_SECRET ?= whsec_ZGV2LWdhdGV3YXktc2VjcmV0LW9mLXRoaXMtbWFjaGluZQ==
CARD_KEY ?= dev:ZGV2LWNhcmQta2V5LW9mLXRoaXMtbWFjaGluZS1vbmw=

export LISTEN REDIS_URL STATE_DIR RUNTIME TRIGGERS GATEWAY_LISTEN API_TOKEN ADMIN_TOKEN GATEWAY_SECRET CARD_KEY

.PHONY: up demo test lint bench setup

up: ## everything on this machine, until Ctrl-C
	cargo run -p dev -- up

demo: ## an order's life and a campaign's, while `make up` runs
	cargo run -q -p dev -- demo

test: setup ## every test, on the real .wasm files and a real Redis
	cargo build --release --target wasm32-wasip2 -p push -p pharmacy -p images -p rewards
	cargo build --release --target wasm32-wasip2 -p probe
	cargo test --workspace

lint:
	cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# BENCH_ONLY=http, stream, rewards or images; BENCH_SECONDS; BENCH_ROUNDS.
bench: ## what the functions cost beside the least that a component can do
	cargo run -q -p dev -- bench

setup:
	cargo run -p dev -- setup
