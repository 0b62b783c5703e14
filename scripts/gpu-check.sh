#!/usr/bin/env bash
# Everything that only a GPU can prove, in one command, on a machine with one:
#
#     scripts/gpu-check.sh [--part PART]... [GRAMSCOPE] [OUT]
#
# GRAMSCOPE is a binary built with `--features cuda`; where none is named, one is built if cargo is here. A stripped binary
# that was carried to a machine without Rust, and this file, suffice. OUT (by default benches/results/ of the checkout, or
# the current folder) receives JSON rows, a line each, and the reports of doctor and of compute-sanitizer. Ends with 1 if
# anything failed, after everything has run. A command that takes longer than GPU_CHECK_SECONDS (by default 500) is stopped and
# has failed; the rows that it had are there.
#
# The parts, in their order; all of them unless some are named, where time on the machine is short. Each is meant to take less
# than ten minutes:
#
#     doctor            every check, against float64 and the CPU: in several processes, for a kernel that faults takes with it
#                       all that comes after it
#     memcheck racecheck initcheck synccheck
#                       compute-sanitizer's tools over the checks of single kernels and a training step
#     kernels           bench kernels, but for convolutions
#     convolutions      bench kernels of convolutions, beside cuDNN's
#     cka               bench cka: ResNet-20, -56 and -110, and ResNet-38 x10
#     train-bf16 train-tf32 train-f32
#                       bench train, and four networks at once
#     train-cudnn       bench train with cuDNN's convolutions, in each precision
#     accuracy          a ResNet-20 trained from five seeds in each precision, and the differences within a seed
#     probe             bench probe
#     libraries libraries-deep libraries-large libraries-imagenet
#                       comparing beside PyTorch, pytorch-cka and torch_cka, and the forward passes alone
#     pytorch pytorch-wide
#                       training a ResNet-20 beside PyTorch, eager, compiled and without channels last; a ResNet-38 x10, eager and
#                       compiled
#     pytorch-cudnn     training both, with cuDNN's convolutions on our side, beside PyTorch, compiled
#     pytorch-imagenet  training a ResNet-50 beside PyTorch, compiled
#
# cuBLAS (for the measured ceilings and to be compared with), cuDNN (whose convolutions are trained with beside ours) and
# compute-sanitizer are used where they are found: on the path, in CUDA_HOME or /usr/local/cuda, where scripts/cuda-toolkit.sh puts
# them, or, the libraries, where python3 (or PYTHON) has them for PyTorch. The last eight parts need benches/ beside this file's
# folder and a python3 (or PYTHON) with torch, numpy and safetensors, `accuracy` benches/ and any python3.
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
# Stops what hangs, or takes too long.
limited() {
    local status=0
    timeout -k 5 "${GPU_CHECK_SECONDS:-500}" "$@" || status=$?
    [[ $status -ne 124 && $status -ne 137 ]] || echo "stopped after ${GPU_CHECK_SECONDS:-500} s (GPU_CHECK_SECONDS)"
    return "$status"
}

all=(doctor memcheck racecheck initcheck synccheck kernels convolutions cka train-bf16 train-tf32 train-f32 train-cudnn accuracy
    probe libraries libraries-deep libraries-large libraries-imagenet pytorch pytorch-wide pytorch-cudnn pytorch-imagenet)
parts=()
while [[ ${1:-} == --* ]]; do
    if [[ $1 != --part || $# -lt 2 || " ${all[*]} " != *" $2 "* ]]; then
        echo "gpu-check: expected --part and one of: ${all[*]}" >&2
        exit 1
    fi
    parts+=("$2")
    shift 2
done
[[ ${#parts[@]} -gt 0 ]] || parts=("${all[@]}")

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

toolkit=${CUDA_HOME:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/gramscope/cuda-13.0}
[[ -d $toolkit ]] || toolkit=/usr/local/cuda
if [[ -d $toolkit/lib64 ]]; then
    export LD_LIBRARY_PATH=$toolkit/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
python=${PYTHON:-python3}
# The libraries beside PyTorch, behind what else there is.
beside=$("$python" -c '
import os, nvidia
folders = [os.path.join(root, of, "lib") for root in nvidia.__path__ for of in ("cu13", "cublas", "cudnn")]
print(":".join(filter(os.path.isdir, folders)))' 2>/dev/null || true)
if [[ -n $beside ]]; then
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$beside
fi
has_cudnn() {
    local folder
    local -a folders
    IFS=: read -ra folders <<<"${LD_LIBRARY_PATH:-}"
    for folder in "${folders[@]}"; do
        [[ -e $folder/libcudnn.so.9 ]] && return 0
    done
    ldconfig -p 2>/dev/null | grep 'libcudnn\.so\.9' >/dev/null
}
sanitizer=$(command -v compute-sanitizer || ls "$toolkit/bin/compute-sanitizer" /usr/local/cuda/bin/compute-sanitizer 2>/dev/null | head -n 1)

say "machine"
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit --format=csv 2>/dev/null || true

# `tee` must not hide the verdict: pipefail is on.
doctor() { limited "$gramscope" doctor --device cuda:0 --only "$1" | tee -a "$out/doctor.txt"; }
part_doctor() {
    : >"$out/doctor.txt"
    local checks
    for checks in '^(gram|ucenter|rbf|eigen|hsic)' \
        '^(batch norm|ReLU|narrowing|mixing|average|max pooling|first component|augmentation|loss|sgd)' \
        '^(convolution|products)' '^cuDNN' '^probe' '^(the direction|ten )' '^(CKA|the same)'; do
        if [[ $checks == ^cuDNN ]] && ! has_cudnn; then
            echo "skipped: no libcudnn.so.9 here, so its convolutions are not checked"
            continue
        fi
        run "doctor, $checks" doctor "$checks"
    done
}

# What runs for minutes as it is, comparisons and repetitions, would run for hours.
checks='^(gram|ucenter|rbf|eigen|hsic|batch norm|ReLU|narrowing|mixing|average|max pooling|first component|augmentation|loss|sgd|probe|products|the direction)'
sanitize() {
    limited "$sanitizer" --tool "$1" --error-exitcode 86 "$gramscope" doctor --device cuda:0 --only "$checks" \
        >"$out/sanitizer-$1.txt" 2>&1 || { tail -n 20 "$out/sanitizer-$1.txt"; return 1; }
}
part_sanitizer() {
    if [[ -z $sanitizer ]]; then
        echo "skipped $1: no compute-sanitizer here (CUDA_HOME, or scripts/cuda-toolkit.sh)"
        return
    fi
    run "compute-sanitizer, $1" sanitize "$1"
}
part_memcheck() { part_sanitizer memcheck; }
part_racecheck() { part_sanitizer racecheck; }
part_initcheck() { part_sanitizer initcheck; }
part_synccheck() { part_sanitizer synccheck; }

others='^(gram|ucenter|rbf|eigen|hsic|probe|batch norm|elementwise|mixing|average|max pooling|first component|augmentation|loss|sgd)'
part_kernels() {
    run "bench kernels" \
        limited "$gramscope" bench kernels --device cuda:0 --only "$others" --json "$out/kernels.jsonl"
}
part_convolutions() {
    run "bench kernels, convolutions" \
        limited "$gramscope" bench kernels --device cuda:0 --only '^convolution' --json "$out/convolutions.jsonl"
}

part_cka() {
    local network
    for network in 20x1 56x1 110x1 38x10; do
        run "bench cka, ResNet-$network" limited "$gramscope" bench cka --depth "${network%x*}" --width "${network#*x}" \
            --device cuda:0 --json "$out/cka-$network.jsonl"
    done
}

train() {
    run "bench train, $1" \
        limited "$gramscope" bench train --all --precision "$1" --device cuda:0 --json "$out/train-$1.jsonl"
    run "bench train, four small networks at once, $1" \
        limited "$gramscope" bench train --jobs 4 --precision "$1" --device cuda:0 --json "$out/train-jobs-$1.jsonl"
}
part_train-bf16() { train bf16; }
part_train-tf32() { train tf32; }
part_train-f32() { train f32; }
part_train-cudnn() {
    if ! has_cudnn; then
        echo "skipped: no libcudnn.so.9 here, so its convolutions are not measured"
        return
    fi
    local precision
    for precision in f32 tf32 bf16; do
        run "bench train with cuDNN's convolutions, $precision" limited "$gramscope" bench train \
            --convolutions cudnn --precision "$precision" --device cuda:0 --json "$out/train-cudnn-$precision.jsonl"
    done
}

part_accuracy() {
    if [[ ! -f $here/benches/precision_seeds.py ]] || ! command -v "$python" >/dev/null; then
        echo "skipped: benches/precision_seeds.py or $python is not here, so nothing is trained over seeds"
        return
    fi
    run "accuracy by precision, over seeds" limited "$python" "$here/benches/precision_seeds.py" --device cuda:0 --jobs 5 \
        --binary "$gramscope" --out "$out"
}

part_probe() { run "bench probe" limited "$gramscope" bench probe --device cuda:0 --json "$out/probe-gpu.jsonl"; }

# Whether a script of benches/ can be run.
python_runs() {
    if [[ ! -f $here/benches/$1 ]]; then
        echo "skipped: no benches/$1 here, so nothing is compared with PyTorch"
    elif ! "$python" -c 'import numpy, safetensors, torch; assert torch.cuda.is_available()' 2>/dev/null; then
        echo "skipped: $python has no torch that sees the GPU, numpy and safetensors, so nothing is compared with PyTorch"
    else
        return 0
    fi
    return 1
}

# Its arguments are where the rows go and those of the script.
beside_libraries() {
    python_runs cka_libraries.py || return 0
    local rows=$1
    shift
    run "comparing beside PyTorch and the CKA libraries: $*" limited "$python" "$here/benches/cka_libraries.py" \
        --device cuda --rounds 1 --binary "$gramscope" --out "$rows" --precision bf16 tf32 f32 "$@"
}
# With fewer batches the differences of whole processes would say little.
forward=(gramscope-forward pytorch-forward)
part_libraries() { beside_libraries "$out" --batches 16 -- 20x1; }
part_libraries-deep() { beside_libraries "$out/deep" --batches 16 -- 56x1; }
part_libraries-large() {
    beside_libraries "$out/large" --sides gramscope pytorch pytorch-cka "${forward[@]}" --batches 16 -- 110x1 38x10
}
part_libraries-imagenet() {
    beside_libraries "$out" --sides gramscope pytorch pytorch-cka "${forward[@]}" --batches 4 --family imagenet -- 50x1
}

# Its arguments are where the rows go, in a folder a precision, and those of the script.
beside_pytorch() {
    python_runs train_pytorch.py || return 0
    local rows=$1 precision
    shift
    for precision in bf16 f32 tf32; do
        run "training beside PyTorch, $precision: $*" limited "$python" "$here/benches/train_pytorch.py" --device cuda \
            --rounds 3 --precision "$precision" --binary "$gramscope" --out "$rows/$precision" "$@"
    done
}
part_pytorch() { beside_pytorch "$out" --variants eager compiled contiguous -- 20x1; }
part_pytorch-wide() { beside_pytorch "$out/wide" --variants eager compiled -- 38x10; }
part_pytorch-cudnn() { beside_pytorch "$out" --convolutions cudnn --variants compiled -- 20x1 38x10; }
part_pytorch-imagenet() { beside_pytorch "$out" --variants compiled --family imagenet --batch 64 -- 50x1; }

for part in "${parts[@]}"; do
    "part_$part"
done

if [[ ${#failures[@]} -gt 0 ]]; then
    say "failed: $(IFS=';'; echo "${failures[*]}")"
    exit 1
fi
say "all passed; rows and reports are in $out"
