#!/usr/bin/env bash
# Fuzzes every parser of files that may come from strangers (fuzz/src/parsers.rs), with cargo-fuzz on the stable compiler,
# without sanitizers: there is no unsafe code of ours to watch. An input that panics, takes half a minute, or takes more than
# 64 MiB beside what it declares, ends it and lies in fuzz/artifacts.
#
#     scripts/fuzz.sh [RUNS [TARGET...]]         # a million runs of every target unless told otherwise
#
# Needs `cargo install cargo-fuzz` and a C++ compiler. What is found on the way is kept below target/fuzz-corpus; fuzz/corpus
# holds the seeds, which `cargo test --test hostile` runs through the same parsers.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-1000000}
shift || true
targets=("$@")
if [[ ${#targets[@]} -eq 0 ]]; then
    targets=(activations archive checkpoint cifar config images map metrics plan result)
fi

# The compiler's coverage flags are not stable yet; the compiler itself is.
export RUSTC_BOOTSTRAP=1
# Inputs are files, and memory is faster than a disk.
if [[ -d /dev/shm ]]; then
    TMPDIR=$(mktemp -d /dev/shm/gramscope-fuzz.XXXXXX)
    export TMPDIR
    trap 'rm -rf "$TMPDIR"' EXIT
fi

# What is fuzzed is what is shipped, with the same versions of everything.
cp Cargo.lock fuzz/Cargo.lock
for target in "${targets[@]}"; do
    grown=target/fuzz-corpus/$target
    mkdir -p "$grown"
    cargo fuzz run --sanitizer none "$target" "$grown" "fuzz/corpus/$target" -- \
        -runs="$runs" -max_len=131072 -timeout=30 -rss_limit_mb=4096 -print_final_stats=1 -verbosity=0
done
