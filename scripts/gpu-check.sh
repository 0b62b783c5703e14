#!/usr/bin/env bash
# Everything that only a GPU can prove, in one command, on a machine with one:
#
#     scripts/gpu-check.sh [GRAMSCOPE] [OUT]
#
# GRAMSCOPE is a binary built with `--features cuda`; where none is named, one is built if cargo is here. A stripped binary
# that was carried to a machine without Rust, and this file, suffice. OUT (by default benches/results/ of the checkout, or
# the current folder) receives JSON rows, a line each, and the reports of doctor and of compute-sanitizer. Ends with 1 if
# anything failed, after everything has run.
#
# cuBLAS (for the measured ceilings and to be compared with) and compute-sanitizer are used where they are found: on the path, in
# CUDA_HOME, or where scripts/cuda-toolkit.sh puts them. The comparison with PyTorch, pytorch-cka and torch_cka needs benches/
# beside this file's folder and a python3 (or PYTHON) with torch, numpy and safetensors.
set -uo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
say() { printf '\n== %s\n' "$*"; }
failures=()
run() {
    local what=$1
    shift
    say "$what"
    "$@" || { failures+=("$what"); echo "FAILED: $what"; }
}

if [[ $# -ge 1 ]]; then
    gramscope=$(readlink -f "$1")
elif command -v cargo >/dev/null && [[ -f $here/Cargo.toml ]]; then
    eval "$("$here/scripts/cuda-toolkit.sh")"
    (cd "$here" && cargo build --release --features cuda) || exit 1
    gramscope=$here/target/release/gramscope
else
    echo "name a gramscope binary that was built with --features cuda" >&2
    exit 1
fi
if [[ $# -ge 2 ]]; then
    out=$2
elif [[ -f $here/Cargo.toml ]]; then
    out=$here/benches/results
else
    out=$PWD
fi
mkdir -p "$out"

toolkit=${CUDA_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/gramscope/cuda-13.0}
if [[ -d $toolkit/lib64 ]]; then
    export LD_LIBRARY_PATH=$toolkit/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
sanitizer=$(command -v compute-sanitizer || ls "$toolkit/bin/compute-sanitizer" 2>/dev/null || true)

say "machine"
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit --format=csv 2>/dev/null || true

# `tee` must not hide the verdict: pipefail is on.
doctor() { "$gramscope" doctor --device cuda:0 | tee "$out/doctor.txt"; }
run "doctor" doctor
run "bench kernels" "$gramscope" bench kernels --device cuda:0 --json "$out/kernels.jsonl"
run "bench cka" "$gramscope" bench cka --device cuda:0 --json "$out/cka.jsonl"
for precision in f32 tf32 bf16; do
    run "bench train, $precision" \
        "$gramscope" bench train --all --precision "$precision" --device cuda:0 --json "$out/train-$precision.jsonl"
done

python=${PYTHON:-python3}
libraries=$here/benches/cka_libraries.py
if [[ ! -f $libraries ]]; then
    echo "skipped: no benches/cka_libraries.py here, so nothing is compared with PyTorch"
elif ! "$python" -c 'import numpy, safetensors, torch; assert torch.cuda.is_available()' 2>/dev/null; then
    echo "skipped: $python has no torch that sees the GPU, numpy and safetensors, so nothing is compared with PyTorch"
else
    run "beside PyTorch, pytorch-cka and torch_cka" \
        "$python" "$libraries" --device cuda --binary "$gramscope" --out "$out"
    run "training beside PyTorch, compiled" "$python" "$here/benches/train_pytorch.py" --device cuda --compile --rounds 2 \
        --precision tf32 bf16 --binary "$gramscope" --out "$out" -- 20x1 38x10
fi

if [[ -n $sanitizer ]]; then
    for tool in memcheck racecheck initcheck synccheck; do
        check() {
            "$sanitizer" --tool "$tool" --error-exitcode 86 "$gramscope" doctor --device cuda:0 \
                >"$out/sanitizer-$tool.txt" 2>&1 || { tail -n 20 "$out/sanitizer-$tool.txt"; return 1; }
        }
        run "compute-sanitizer, $tool" check
    done
else
    echo "skipped: no compute-sanitizer here (CUDA_HOME, or scripts/cuda-toolkit.sh)"
fi

if [[ ${#failures[@]} -gt 0 ]]; then
    say "failed: $(IFS=';'; echo "${failures[*]}")"
    exit 1
fi
say "all passed; rows and reports are in $out"
