#!/usr/bin/env bash
# Runs a target with libFuzzer on stable Rust: ./run.sh orders -max_total_time=60
set -euo pipefail
cd "$(dirname "$0")"
target=$1
shift
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host" --bin "$target"
mkdir -p "corpus/$target"
exec "target/$host/release/$target" "corpus/$target" "seeds/$target" "$@"
