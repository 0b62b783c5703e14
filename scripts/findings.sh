#!/usr/bin/env bash
# The paper's findings on real CIFAR-10, in calls of minutes that go on from each other: the studies of docs/results/, each trained,
# compared and drawn as `gramscope study` does.
#
#     scripts/findings.sh [--device DEVICE] [--precision P] [--jobs N] [--scale S] [--seconds N] GRAMSCOPE DATA WORK OUT [STUDY...]
#
# GRAMSCOPE is a binary, DATA a directory with CIFAR-10. WORK keeps the networks, and a call with the same WORK goes on where the last
# one was stopped, after --seconds (by default 540). OUT receives findings.tar.gz with all that is small: figures, maps (cka.npz), scores,
# settings, metrics, predictions and reports, and none of the weights. Without a STUDY (the name of a file of docs/results/) they are
# carried out in this order: what shows most for its time comes first.
#
#     width-part   ResNet-38 x1, x2, x4, x8 and x10 on a sixteenth of the images, two seeds each, 300 epochs
#     depth-part   ResNet-20, -56 and -110 on a sixteenth of the images, the same
#     depth-all    ResNet-20, -56 and -110 on all images, 100 epochs
#     width-all    ResNet-38 x1, x2, x4, x8 and x10 on all images, 30 epochs
#
# Ends with 0 when all are done, with 75 when there was no time for all (call again), with 1 when one failed.
set -uo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
seconds=540
device=cuda:0
flags=()
while [[ ${1:-} == --* ]]; do
    if [[ ! $1 =~ ^--(device|precision|jobs|scale|seconds)$ || $# -lt 2 ]]; then
        echo "findings: expected --device, --precision, --jobs, --scale or --seconds, and its value" >&2
        exit 1
    fi
    case $1 in
        --seconds) seconds=$2 ;;
        --device) device=$2 ;;
        *) flags+=("$1" "$2") ;;
    esac
    shift 2
done
if [[ $# -lt 4 ]]; then
    echo "usage: findings.sh [FLAGS] GRAMSCOPE DATA WORK OUT [STUDY...]" >&2
    exit 1
fi
gramscope=$1 data=$2 work=$3 out=$4
shift 4
studies=("$@")
[[ ${#studies[@]} -gt 0 ]] || studies=(width-part depth-part depth-all width-all)
mkdir -p "$work" "$out"
end=$((SECONDS + seconds))

# What is small, under another name until it is whole.
pack() {
    tar -C "$work" --exclude=checkpoints --exclude='unfinished-*' -czf "$out/findings.part" . && mv "$out/findings.part" "$out/findings.tar.gz"
}

outcome=0
for study in "${studies[@]}"; do
    left=$((end - SECONDS))
    if [[ $left -le 0 ]]; then
        echo "== no time left for $study"
        [[ $outcome -eq 1 ]] || outcome=75
        break
    fi
    printf '\n== %s\n' "$study"
    # A stop is a checkpoint's work away; what is stopped goes on in the next call.
    timeout -s INT -k 60 "$left" "$gramscope" study "$here/docs/results/$study.toml" --data "$data" --out "$work/$study" \
        --device "$device" "${flags[@]}"
    status=$?
    pack || outcome=1
    if [[ $status -eq 124 || $status -eq 130 || $status -eq 137 ]]; then
        echo "== $study is not done yet; the same call goes on"
        [[ $outcome -eq 1 ]] || outcome=75
        break
    elif [[ $status -ne 0 ]]; then
        outcome=1
    fi
done
exit "$outcome"
