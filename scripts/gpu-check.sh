#!/usr/bin/env bash
# Everything that only a GPU can prove, in one command, on a machine with one:
#
#     scripts/gpu-check.sh [--part PART]... [GRAMSCOPE] [OUT]
#
# GRAMSCOPE is a binary built with `--features cuda`; where none is named, one is built if cargo is here. A stripped binary
# that was carried to a machine without Rust, and this file, suffice. OUT (by default benches/results/ of the checkout, or
# the current folder) receives JSON rows, a line each, and the reports of doctor and of compute-sanitizer. Ends with 1 if
# anything failed, after everything has run.
#
# The parts, in their order; all of them unless some are named, where time on the machine is short:
#
#     doctor     every check, against float64 and the CPU
#     sanitizer  compute-sanitizer's four tools over the checks of single kernels and a training step
#     kernels    bench kernels
#     cka        bench cka
#     train      bench train, in each precision, with cuDNN's convolutions too, and four networks at once; bench probe
#     libraries  comparing beside PyTorch, pytorch-cka and torch_cka
#     pytorch    training beside PyTorch, compiled
#
# cuBLAS (for the measured ceilings and to be compared with), cuDNN (whose convolutions are trained with beside ours) and
# compute-sanitizer are used where they are found: on the path, in CUDA_HOME, where scripts/cuda-toolkit.sh puts them, or, cuDNN,
# where python3 (or PYTHON) has it for PyTorch. The last two parts need benches/ beside this file's folder and a python3
# (or PYTHON) with torch, numpy and safetensors.
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

all=(doctor sanitizer kernels cka train libraries pytorch)
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

toolkit=${CUDA_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/gramscope/cuda-13.0}
if [[ -d $toolkit/lib64 ]]; then
    export LD_LIBRARY_PATH=$toolkit/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
python=${PYTHON:-python3}
# cuDNN beside PyTorch, behind what else there is.
cudnn=$("$python" -c 'import nvidia.cudnn; print(list(nvidia.cudnn.__path__)[0] + "/lib")' 2>/dev/null || true)
if [[ -n $cudnn && -e $cudnn/libcudnn.so.9 ]]; then
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$cudnn
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
sanitizer=$(command -v compute-sanitizer || ls "$toolkit/bin/compute-sanitizer" 2>/dev/null || true)

say "machine"
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit --format=csv 2>/dev/null || true

# `tee` must not hide the verdict: pipefail is on.
doctor() { "$gramscope" doctor --device cuda:0 | tee "$out/doctor.txt"; }
part_doctor() { run "doctor" doctor; }

# What runs for minutes as it is, comparisons and repetitions, would run for hours.
checks='^(gram|ucenter|rbf|eigen|hsic|batch norm|addition|mixing|average|max pooling|first component|augmentation|loss|sgd|probe|products|the direction)'
sanitize() {
    "$sanitizer" --tool "$1" --error-exitcode 86 "$gramscope" doctor --device cuda:0 --only "$checks" \
        >"$out/sanitizer-$1.txt" 2>&1 || { tail -n 20 "$out/sanitizer-$1.txt"; return 1; }
}
part_sanitizer() {
    if [[ -z $sanitizer ]]; then
        echo "skipped: no compute-sanitizer here (CUDA_HOME, or scripts/cuda-toolkit.sh)"
        return
    fi
    local tool
    for tool in memcheck racecheck initcheck synccheck; do
        run "compute-sanitizer, $tool" sanitize "$tool"
    done
}

part_kernels() { run "bench kernels" "$gramscope" bench kernels --device cuda:0 --json "$out/kernels.jsonl"; }

part_cka() { run "bench cka" "$gramscope" bench cka --device cuda:0 --json "$out/cka.jsonl"; }

part_train() {
    local precision
    for precision in f32 tf32 bf16; do
        run "bench train, $precision" \
            "$gramscope" bench train --all --precision "$precision" --device cuda:0 --json "$out/train-$precision.jsonl"
        run "bench train, four small networks at once, $precision" "$gramscope" bench train --jobs 4 \
            --precision "$precision" --device cuda:0 --json "$out/train-jobs-$precision.jsonl"
        if has_cudnn; then
            run "bench train with cuDNN's convolutions, $precision" "$gramscope" bench train --convolutions cudnn \
                --precision "$precision" --device cuda:0 --json "$out/train-cudnn-$precision.jsonl"
        fi
    done
    has_cudnn || echo "skipped: no libcudnn.so.9 here, so its convolutions are not measured"
    run "bench probe" "$gramscope" bench probe --device cuda:0 --json "$out/probe-gpu.jsonl"
}

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

part_libraries() {
    python_runs cka_libraries.py || return 0
    run "beside PyTorch, pytorch-cka and torch_cka" \
        "$python" "$here/benches/cka_libraries.py" --device cuda --binary "$gramscope" --out "$out"
}

part_pytorch() {
    python_runs train_pytorch.py || return 0
    local train=("$python" "$here/benches/train_pytorch.py" --device cuda --compile --rounds 2 --precision tf32 bf16
        --binary "$gramscope" --out "$out")
    run "training beside PyTorch, compiled" "${train[@]}" -- 20x1 38x10
    run "training a ResNet-50 beside PyTorch, compiled" "${train[@]}" --family imagenet --batch 64 -- 50x1
}

for part in "${parts[@]}"; do
    "part_$part"
done

if [[ ${#failures[@]} -gt 0 ]]; then
    say "failed: $(IFS=';'; echo "${failures[*]}")"
    exit 1
fi
say "all passed; rows and reports are in $out"
