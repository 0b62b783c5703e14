#!/usr/bin/env bash
# What limits one kernel: Nsight Compute over one launch of it in `gramscope bench kernels`.
#
#     scripts/profile.sh [--dry-run] [--gramscope FILE] KERNEL [ONLY] [-- NCU OPTIONS]
#
# KERNEL is an entry of kernels/README.md's table, such as gs_gram_fused_exact_f32. ONLY says at which shape, as `bench kernels
# --only` does (by default at the first that launches the kernel): 'gram fused exact f32 .256, 65536'. --gramscope is a binary
# built with `--features cuda` (by default target/release/gramscope). --dry-run prints the command and runs nothing. What comes
# after -- goes to ncu as it is: -o FILE keeps the report for its viewer, --set full measures everything.
#
# (For the timeline of a whole command, `nsys profile target/release/gramscope cka ...`: phases, batches and layers are NVTX ranges.)
#
# Prints the sections that matter (speed of light, memory, occupancy, scheduler, warp states) with ncu's own advice, and one line
# of verdict. Ends with 1 where there is no ncu, no binary, or no such launch.
set -euo pipefail

# From this share of a unit's peak on, in percent, the unit is what limits.
busy=60

here=$(cd "$(dirname "$0")/.." && pwd)
gramscope=$here/target/release/gramscope
dry=false
fail() { echo "profile: $*" >&2; exit 1; }
usage() { sed -n '2,/^set/p' "$0" | sed -n 's/^# \{0,1\}//p'; }

while [[ $# -gt 0 ]]; do
    case $1 in
        --dry-run) dry=true; shift ;;
        --gramscope) [[ $# -ge 2 ]] || fail "--gramscope needs a file"; gramscope=$2; shift 2 ;;
        -h | --help) usage; exit 0 ;;
        -*) fail "there is no option $1; see --help" ;;
        *) break ;;
    esac
done
[[ $# -ge 1 ]] || { usage >&2; exit 1; }
kernel=$1
shift
[[ $kernel =~ ^gs_[a-z0-9_]+$ ]] || fail "$kernel is not the name of a kernel, such as gs_gram_fused_exact_f32"
# Launches that come first: the warm-up round, and some more. Naive twins have four altogether, and units are made once a shape.
skipped=8
case $kernel in *_naive* | gs_hsic_units) skipped=2 ;; esac
# A row of `bench kernels` may launch several kernels, and not always those of its name: all rows of the kernel's family and type
# are run, up to the launch that is wanted.
case $kernel in
    gs_gram_distances_* | gs_ucenter_reduce_f64) rows=rbf ;;
    gs_batch_norm_*) rows='batch norm' ;;
    gs_first_component_*) rows='first component' ;;
    gs_pooling_average_*) rows='average pooling' ;;
    gs_pooling_max_*) rows='max pooling' ;;
    gs_augment_*) rows=augmentation ;;
    *) rows=${kernel#gs_} rows=${rows%%_*} ;;
esac
only="^$rows .*\["
[[ ! $kernel =~ _(f32|f16|bf16|tf32)$ ]] || only="^$rows .* ${BASH_REMATCH[1]} \["
if [[ $# -ge 1 && $1 != -- ]]; then
    only=$1
    shift
fi
if [[ $# -ge 1 ]]; then
    [[ $1 == -- ]] || fail "one kernel and one shape at a time; options for ncu come after --"
    shift
fi

toolkit=${CUDA_HOME:-${XDG_CACHE_HOME:-${HOME:-~}/.cache}/gramscope/cuda-13.0}
ncu=$(command -v ncu || ls "$toolkit/bin/ncu" /usr/local/cuda/bin/ncu 2>/dev/null | head -n 1 || true)
# The clocks are left as they are: they are not this script's to lock, and what is measured is how fast the kernel is in use. The
# page is asked for because ncu prints none where the report is kept in a file.
command=("${ncu:-ncu}" --target-processes all --clock-control none --kernel-name "$kernel" --launch-skip "$skipped"
    --launch-count 1 --kill yes --page details)
for section in SpeedOfLight MemoryWorkloadAnalysis ComputeWorkloadAnalysis Occupancy LaunchStats SchedulerStats WarpStateStats; do
    command+=(--section "$section")
done
command+=("$@" "$gramscope" bench kernels --device cuda --only "$only" --quiet)
if $dry; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
[[ -n $ncu ]] || fail "there is no ncu on the path or in CUDA_HOME; Nsight Compute has it"
[[ -x $gramscope ]] || fail "there is no $gramscope; build one with --features cuda, or name it with --gramscope"

report=$(mktemp)
trap 'rm -f "$report"' EXIT
# With --kill, ncu may end with the status of the program that it has killed.
"${command[@]}" | tee "$report" || true
# Name, unit and value stand in columns; "Memory Throughput" is there in bytes a second, too.
share() { awk -v name="$1" 'index($0, name) && $(NF - 1) == "%" { print int($NF); exit }' "$report"; }
compute=$(share "Compute (SM) Throughput")
memory=$(share "Memory Throughput")
[[ -n $compute && -n $memory ]] || fail "no launch of $kernel was measured: does --only '$only' name one?"
if ((compute < busy && memory < busy)); then
    verdict="neither: latency or too few blocks; see the warp states and the occupancy above"
elif ((memory >= compute)); then
    verdict="memory"
else
    verdict="computing"
fi
echo "== $kernel: $memory% of the memory's speed, $compute% of the multiprocessors'; what limits it is $verdict"
