#!/usr/bin/env bash
# Puts everything that a build with `--features cuda` needs on a machine without a CUDA toolkit, and prints the variables
# that the build wants:
#
#     eval "$(scripts/cuda-toolkit.sh)"          # or: scripts/cuda-toolkit.sh DIR
#     cargo build --release --features cuda
#
# A toolkit of the system (CUDA_HOME, or nvcc on the path) is used where there is one and nothing is installed then. Else
# the compiler, headers and libraries come from NVIDIA's wheels, through pip as it is configured here, into DIR (by default
# below the user's cache; about 2 GB, once). Messages go to stderr. Compiling needs no driver and no GPU.
set -euo pipefail

# Stay on 13.0: PTX of a newer compiler does not load on a driver of that age.
toolkit="cuda-toolkit[nvcc,crt,nvvm,cccl,cudart,cublas,curand,nvrtc,nvtx,profiler,sanitizer]==13.0.2"
cudnn="nvidia-cudnn-cu13==9.21.1.3"
# Part of the toolkit above; by its own name for folders that an earlier version of this script filled without it.
nvtx="nvidia-nvtx==13.0.85"

say() { printf 'cuda-toolkit: %s\n' "$*" >&2; }

print_variables() {
    local home=$1
    printf 'export CUDA_HOME=%q CUDA_PATH=%q CUDA_ROOT=%q\n' "$home" "$home" "$home"
    printf 'export PATH=%q:"$PATH"\n' "$home/bin"
    printf 'export LIBRARY_PATH=%q${LIBRARY_PATH:+:"$LIBRARY_PATH"}\n' "$home/lib64"
    # PTX for 8.0 runs on everything newer; 9.0 would make candle's kernels run on Hopper alone.
    printf 'export CUDA_COMPUTE_CAP=80\n'
}

system_toolkit() {
    if [[ -n ${CUDA_HOME:-} && -x $CUDA_HOME/bin/nvcc ]]; then
        printf '%s' "$CUDA_HOME"
    elif command -v nvcc >/dev/null; then
        dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")"
    fi
}

# Unpacks wheels into a folder.
unpack() {
    local wheels=$1
    shift
    local -a pip
    if command -v uv >/dev/null; then
        pip=(uv pip install --quiet)
    elif python3 -m pip --version >/dev/null 2>&1; then
        pip=(env PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-compile)
    else
        say "neither pip nor uv is here; install python3-pip, or a CUDA toolkit, and run this again"
        exit 1
    fi
    "${pip[@]}" --target "$wheels" "$@" >&2
}

install_wheels() {
    local dir=$1 wheels=$1/wheels
    unpack "$wheels" "$toolkit" "$cudnn"
    mv "$wheels"/nvidia/cu13/* "$dir"/
    mv "$wheels"/nvidia/cudnn/include/* "$dir"/include/
    mv "$wheels"/nvidia/cudnn/lib/* "$dir"/lib/
    rm -r "$wheels"
    ln -s lib "$dir/lib64"
    # Linkers ask for libcublas.so; wheels hold libcublas.so.13 alone.
    local library
    for library in "$dir"/lib/lib*.so.*; do
        ln -sf "$(basename "$library")" "${library%%.so.*}.so"
    done
}

main() {
    local dir=${1:-${XDG_CACHE_HOME:-${HOME:-~}/.cache}/gramscope/cuda-13.0}
    local found
    found=$(system_toolkit)
    if [[ -n $found ]]; then
        say "using the toolkit in $found"
        print_variables "$found"
        return
    fi
    if [[ ! -x $dir/bin/nvcc ]]; then
        say "installing NVIDIA's compiler and libraries into $dir (about 2 GB)"
        mkdir -p "$(dirname "$dir")"
        # Built beside its place and moved there whole, so that an interrupted install is no install.
        partial=$(mktemp -d "$dir.XXXXXX")
        trap 'rm -rf "$partial"' EXIT
        install_wheels "$partial"
        "$partial/bin/nvcc" --version >/dev/null
        chmod 755 "$partial"
        mkdir -p "$dir"
        rmdir "$dir" 2>/dev/null || { say "$dir is there but holds no toolkit; remove it, or name another"; exit 1; }
        mv "$partial" "$dir"
        trap - EXIT
    elif [[ ! -f $dir/include/nvtx3/nvToolsExt.h ]]; then
        say "adding NVTX's headers to the toolkit in $dir"
        partial=$(mktemp -d "$dir.XXXXXX")
        trap 'rm -rf "$partial"' EXIT
        unpack "$partial" "$nvtx"
        mv "$partial/nvidia/cu13/include/nvtx3" "$dir/include/"
        rm -rf "$partial"
        trap - EXIT
    fi
    dir=$(cd "$dir" && pwd)
    say "using the toolkit in $dir"
    print_variables "$dir"
}

main "$@"
