#!/usr/bin/env bash
# Everything that only a GPU can prove, in one command, on a machine with one:
#
#     scripts/gpu-check.sh [--part PART]... [GRAMSCOPE] [OUT]
#
# GRAMSCOPE is a binary built with `--features cuda`; where none is named, one is built if cargo is here. A stripped binary
# that was carried to a machine without Rust, and this file, suffice. OUT (by default benches/results/ of the checkout, or
# the current folder) receives JSON rows, a line each, and the reports of doctor, of compute-sanitizer and of Nsight Compute;
# after every part all that it holds is in OUT/rows.tar.gz too, for machines that give back few files. Ends with 1 if anything
# failed, after everything has run, and says last what failed and what was skipped. A command that takes longer than
# GPU_CHECK_SECONDS (by default 500) is stopped and has failed; the rows that it had are there. (One that fails before its first row
# leaves those of an earlier call: give each call an OUT of its own.)
#
# The parts, in their order, what is measured against a target first; all of them unless some are named, where time on the
# machine is short. The minutes are estimates: no part has been timed yet. A part with a * goes through GPU_CHECK_PRECISIONS (by
# default "f32 tf32 bf16") and may take more than ten minutes for all three; GPU_CHECK_PRECISIONS=bf16 is one alone.
#
#     doctor              4   every check, against float64 and the CPU: in several processes, for a kernel that faults takes with it
#                             all that comes after it
#     cka                 1   bench cka: ResNet-20, -56 and -110, and ResNet-38 x10
#     kernels             4   bench kernels, but for convolutions
#     train-bf16          3   bench train, and four and eight networks at once
#     memcheck            8   compute-sanitizer over the checks of single kernels, training steps and a few comparisons
#     trained             1   a network that was trained on the GPU: its CKA there and on the CPU
#     convolutions *     10   bench kernels of convolutions, beside cuDNN's, which compiles engines in bf16
#     train-f32           4
#     train-tf32          3   as train-bf16
#     racecheck initcheck synccheck
#                      8 each compute-sanitizer's other tools, over the same
#     probe               1   bench probe
#     profile             2   what limits three kernels, by Nsight Compute
#     libraries *         4   comparing beside PyTorch, pytorch-cka and torch_cka, and the forward passes alone: a ResNet-20
#     libraries-deep *    4   a ResNet-56, without torch_cka, which would take minutes a batch from here on
#     libraries-large *  10   a ResNet-110 and a ResNet-38 x10
#     libraries-imagenet * 7  a ResNet-50
#     pytorch *           9   training a ResNet-20 beside PyTorch, eager, compiled and without channels last
#     pytorch-wide *      9   a ResNet-38 x10, eager and compiled
#     pytorch-imagenet *  9   training a ResNet-50 beside PyTorch, compiled
#     accuracy            3   a ResNet-20 trained from five seeds in each precision, and the differences within a seed
#     train-cudnn *      10   bench train with cuDNN's convolutions
#     pytorch-cudnn *    15   training both of the former, with cuDNN's convolutions on our side, beside PyTorch, compiled
#
# cuBLAS (for the measured ceilings and to be compared with), cuDNN (whose convolutions are trained with beside ours),
# compute-sanitizer and Nsight Compute are used where they are found: on the path, in CUDA_HOME or /usr/local/cuda, where
# scripts/cuda-toolkit.sh puts them, or, the libraries, where python3 (or PYTHON) has them for PyTorch. What begins with
# libraries or pytorch needs benches/ beside this file's folder and a python3 (or PYTHON) with torch, numpy and safetensors,
# `accuracy` benches/ and any python3, `trained` one with numpy, `profile` the script of that name.
set -uo pipefail

# The binary keeps things below it.
export HOME=${HOME:-~}
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf '\n== %s\n' "$*"; }
failures=()
skipped=()
# What is skipped, and why.
skip() {
    echo "skipped $1: $2"
    skipped+=("$1")
}
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

all=(doctor cka kernels train-bf16 memcheck trained convolutions train-f32 train-tf32 racecheck initcheck synccheck probe profile
    libraries libraries-deep libraries-large libraries-imagenet pytorch pytorch-wide pytorch-imagenet accuracy train-cudnn
    pytorch-cudnn)
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
read -ra precisions <<<"${GPU_CHECK_PRECISIONS:-f32 tf32 bf16}"
for precision in "${precisions[@]}"; do
    if [[ ! $precision =~ ^(f32|tf32|bf16)$ ]]; then
        echo "gpu-check: GPU_CHECK_PRECISIONS has $precision, where f32, tf32 and bf16 can be" >&2
        exit 1
    fi
done

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
[[ -d $toolkit ]] || toolkit=/usr/local/cuda
python=${PYTHON:-python3}
# Where our binary finds libraries, it alone, for PyTorch has its own: the toolkit's first, those beside PyTorch behind what else
# there is.
libraries=${LD_LIBRARY_PATH:-}
[[ ! -d $toolkit/lib64 ]] || libraries=$toolkit/lib64${libraries:+:$libraries}
beside=$("$python" -c '
import os, nvidia
folders = [os.path.join(root, of, "lib") for root in nvidia.__path__ for of in ("cu13", "cublas", "cudnn")]
print(":".join(filter(os.path.isdir, folders)))' 2>/dev/null || true)
[[ -z $beside ]] || libraries=${libraries:+$libraries:}$beside
ours=$work/gramscope
printf '#!/usr/bin/env bash\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$libraries" "$gramscope" >"$ours"
chmod +x "$ours"
has_cudnn() {
    local folder
    local -a folders
    IFS=: read -ra folders <<<"$libraries"
    for folder in "${folders[@]}"; do
        [[ -e $folder/libcudnn.so.9 ]] && return 0
    done
    ldconfig -p 2>/dev/null | grep 'libcudnn\.so\.9' >/dev/null
}
# A program of the toolkit's, if it is here.
tool() { command -v "$1" || ls "$toolkit/bin/$1" "/usr/local/cuda/bin/$1" 2>/dev/null | head -n 1; }
sanitizer=$(tool compute-sanitizer)

say "machine"
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit --format=csv 2>/dev/null || true

# `tee` must not hide the verdict: pipefail is on.
doctor() { limited "$ours" doctor --device cuda:0 --only "$1" | tee -a "$out/doctor.txt"; }
part_doctor() {
    : >"$out/doctor.txt"
    local checks
    for checks in '^(gram|ucenter|rbf|eigen|hsic)' \
        '^(batch norm|ReLU|narrowing|mixing|average|max pooling|first component|augmentation|loss|sgd)' \
        '^(convolution|products)' '^cuDNN' '^probe' '^(the direction|ten |a training step)' '^(CKA|the same)'; do
        if [[ $checks == ^cuDNN ]] && ! has_cudnn; then
            skip "doctor, cuDNN" "no libcudnn.so.9 here"
            continue
        fi
        run "doctor, $checks" doctor "$checks"
    done
}

# What runs for minutes as it is, most comparisons and repetitions, would run for hours. Several layers in a launch and captured
# steps are there, at their smallest.
checks='^(gram|ucenter|rbf|eigen|hsic|batch norm|ReLU|narrowing|mixing|average|max pooling|first component|augmentation|loss|sgd'
checks+='|probe|products|the direction|CKA of layers together, (exact|fast), batches of (33|256)$|ten training steps, the same bits twice, bf16)'
sanitize() {
    local options=()
    # A family of kernels without constants of its own is asked for them all the same, and the driver's no is no error.
    [[ $1 != memcheck ]] || options=(--report-api-errors no)
    limited env LD_LIBRARY_PATH="$libraries" "$sanitizer" --tool "$1" "${options[@]}" --error-exitcode 86 "$gramscope" doctor \
        --device cuda:0 --only "$checks" >"$out/sanitizer-$1.txt" 2>&1 || { tail -n 20 "$out/sanitizer-$1.txt"; return 1; }
}
part_sanitizer() {
    if [[ -z $sanitizer ]]; then
        skip "$1" "no compute-sanitizer here (CUDA_HOME, or scripts/cuda-toolkit.sh)"
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
        limited "$ours" bench kernels --device cuda:0 --only "$others" --json "$out/kernels.jsonl"
}
part_convolutions() {
    for precision in "${precisions[@]}"; do
        run "bench kernels, convolutions, $precision" limited "$ours" bench kernels --device cuda:0 \
            --only "^convolution .* $precision " --json "$out/convolutions-$precision.jsonl"
    done
}

part_cka() {
    local network
    for network in 20x1 56x1 110x1 38x10; do
        run "bench cka, ResNet-$network" limited "$ours" bench cka --depth "${network%x*}" --width "${network#*x}" \
            --device cuda:0 --json "$out/cka-$network.jsonl"
    done
}

train() {
    run "bench train, $1" \
        limited "$ours" bench train --all --precision "$1" --device cuda:0 --json "$out/train-$1.jsonl"
    local jobs
    for jobs in 4 8; do
        run "bench train, $jobs small networks at once, $1" \
            limited "$ours" bench train --jobs "$jobs" --precision "$1" --device cuda:0 --json "$out/train-jobs-$jobs-$1.jsonl"
    done
}
part_train-bf16() { train bf16; }
part_train-tf32() { train tf32; }
part_train-f32() { train f32; }
part_train-cudnn() {
    if ! has_cudnn; then
        skip train-cudnn "no libcudnn.so.9 here"
        return
    fi
    for precision in "${precisions[@]}"; do
        run "bench train with cuDNN's convolutions, $precision" limited "$ours" bench train \
            --convolutions cudnn --precision "$precision" --device cuda:0 --json "$out/train-cudnn-$precision.jsonl"
    done
}

part_accuracy() {
    if [[ ! -f $here/benches/precision_seeds.py ]] || ! command -v "$python" >/dev/null; then
        skip accuracy "no benches/precision_seeds.py, or no $python here"
        return
    fi
    run "accuracy by precision, over seeds" limited "$python" "$here/benches/precision_seeds.py" --device cuda:0 --jobs 5 \
        --binary "$ours" --out "$out"
}

part_probe() { run "bench probe" limited "$ours" bench probe --device cuda:0 --json "$out/probe-gpu.jsonl"; }

# Over the same activations both would be within 1e-6 of the truth, and so 2e-6 apart; that the two passes' own differences leave that room
# is what this asks.
trained() {
    local run=$work/trained device
    limited "$ours" train --depth 20 --epochs 3 --train-images 5000 --test-images 512 --device cuda:0 --out "$run" --quiet ||
        return 1
    for device in cpu cuda:0; do
        limited "$ours" cka "$run" --device "$device" --passes 1 --out "$work/on-$device" --quiet || return 1
    done
    "$python" - "$work/on-cpu" "$work/on-cuda:0" "$out/trained.jsonl" <<'END'
import json, sys
import numpy as np

cpu, gpu = (np.load(f"{folder}/cka.npz")["cka"] for folder in sys.argv[1:3])
same = cpu.shape == gpu.shape and bool((np.isnan(cpu) == np.isnan(gpu)).all())
largest = float(np.nanmax(np.abs(cpu - gpu))) if same else None
row = {"bench": "trained", "layers": len(cpu), "undefined": int(np.isnan(cpu).sum()), "largest_difference": largest}
with open(sys.argv[3], "w") as file:
    print(json.dumps(row), file=file)
if not same:
    sys.exit("CPU and GPU find other layers, or other entries undefined")
print(f"{len(cpu)} layers, largest difference {largest:.1e} (allowed 2.0e-06)")
sys.exit(0 if largest <= 2e-6 else 1)
END
}
part_trained() {
    local reason
    if ! reason=$("$python" -c 'import numpy' 2>&1); then
        skip trained "${reason##*$'\n'}"
        return
    fi
    run "CKA of a trained network on CPU and GPU" trained
}

profile() {
    limited env LD_LIBRARY_PATH="$libraries" bash "$here/scripts/profile.sh" --gramscope "$gramscope" "$1" "$2" \
        -- --force-overwrite -o "$out/profile-$1" | tee "$out/profile-$1.txt"
}
part_profile() {
    if [[ ! -f $here/scripts/profile.sh || -z $(tool ncu) ]]; then
        skip profile "no scripts/profile.sh, or no ncu here"
        return
    fi
    run "profile, Gram matrices" profile gs_gram_fused_exact_f32 'gram fused exact f32 .256, 65536'
    run "profile, pairs of layers" profile gs_hsic_mma_f32 'hsic mma f32 .385,'
    run "profile, batch norm" profile gs_batch_norm_normalise_f32 'batch norm normalise f32 .131072, 16.'
}

# Whether a script of benches/ can be run for the part that is being run.
python_runs() {
    local reason
    if [[ ! -f $here/benches/$1 ]]; then
        skip "$part" "no benches/$1 here"
    elif ! reason=$("$python" -c 'import numpy, safetensors, torch
assert torch.cuda.is_available(), "torch sees no GPU"' 2>&1); then
        skip "$part" "${reason##*$'\n'}"
    else
        return 0
    fi
    return 1
}

# Its arguments are a network and what else the script is to be told.
beside_libraries() {
    local network=$1
    shift
    run "comparing beside PyTorch and the CKA libraries, $network" limited "$python" "$here/benches/cka_libraries.py" --device cuda \
        --rounds 1 --binary "$ours" --out "$out/libraries-$network" --precision "${precisions[@]}" "$@" -- "$network"
}
without_torch_cka=(--sides gramscope gramscope-forward pytorch pytorch-forward pytorch-forward-contiguous pytorch-cka)
part_libraries() { python_runs cka_libraries.py && beside_libraries 20x1; }
part_libraries-deep() { python_runs cka_libraries.py && beside_libraries 56x1 "${without_torch_cka[@]}"; }
part_libraries-large() {
    python_runs cka_libraries.py || return 0
    beside_libraries 110x1 "${without_torch_cka[@]}"
    beside_libraries 38x10 "${without_torch_cka[@]}"
}
part_libraries-imagenet() {
    python_runs cka_libraries.py && beside_libraries 50x1 --family imagenet "${without_torch_cka[@]}"
}

# Its arguments are where the rows go, in a folder a precision, and those of the script.
beside_pytorch() {
    python_runs train_pytorch.py || return 0
    local rows=$1
    shift
    for precision in "${precisions[@]}"; do
        run "training beside PyTorch, $precision: $*" limited "$python" "$here/benches/train_pytorch.py" --device cuda \
            --rounds 2 --precision "$precision" --binary "$ours" --out "$rows-$precision" "$@"
    done
}
part_pytorch() { beside_pytorch "$out/pytorch" --variants eager compiled contiguous -- 20x1; }
part_pytorch-wide() { beside_pytorch "$out/pytorch-wide" --variants eager compiled -- 38x10; }
part_pytorch-cudnn() { beside_pytorch "$out/pytorch-cudnn" --convolutions cudnn --variants compiled -- 20x1 38x10; }
part_pytorch-imagenet() { beside_pytorch "$out/pytorch-imagenet" --variants compiled --family imagenet --batch 64 -- 50x1; }

for part in "${parts[@]}"; do
    "part_$part"
    (cd "$out" && find . -type f ! -name 'rows.tar.gz*' -print0 | tar --null -T - -czf rows.tar.gz.new &&
        mv rows.tar.gz.new rows.tar.gz)
done

left=
[[ ${#skipped[@]} -eq 0 ]] || left="; skipped: $(IFS=';'; echo "${skipped[*]}")"
if [[ ${#failures[@]} -gt 0 ]]; then
    say "failed: $(IFS=';'; echo "${failures[*]}")$left"
    exit 1
fi
say "all that was run passed$left; rows and reports are in $out"
