# Shared by the other scripts. Sourced, never run; the caller is in the repository root.

say() { printf '%s\n' "$@" >&2; }
die() { say "error: $1" "${@:2}"; exit 1; } # one argument, one line

# pip's progress is for people; a log keeps only warnings and errors.
quiet=()
[ -t 2 ] || quiet=(-q)

# find_python MINOR: print a Python 3.MINOR or newer. $PYTHON wins; then PATH, then pyenv's versions.
find_python() {
    local min=$1 roots=() name path
    if [ -n "${PYTHON:-}" ]; then
        is_python "$PYTHON" "$min" && printf '%s\n' "$PYTHON"
        return
    fi
    command -v pyenv >/dev/null && roots=("$(pyenv root)"/versions/*/bin/)
    # Older first: the pinned versions are tested most on the oldest Python.
    for name in python3.11 python3.12 python3.13 python3.14 python3; do
        for path in "$name" ${roots[@]+"${roots[@]/%/$name}"}; do
            if is_python "$path" "$min"; then printf '%s\n' "$path"; return; fi
        done
    done
    return 1
}

is_python() {
    command -v "$1" >/dev/null &&
        "$1" -c "import sys; sys.exit(sys.version_info < (3, $2))" >/dev/null 2>&1
}

# new_venv FOLDER PYTHON
new_venv() {
    local version
    version=$("$2" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$2" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$2 (Python $version) cannot make virtual environments: a part of it is packed apart." \
            "On Debian and Ubuntu: sudo apt-get install python3-venv   (or python$version-venv)"
    rm -rf "$1"
    "$2" -m venv "$1"
}

# install_torch PYTHON REQUIREMENT [PIP OPTION...]
# On Linux the default build of torch brings gigabytes of CUDA libraries. Where there is no NVIDIA driver we want the
# CPU build: as pip finds it, if pip was configured to, else through uv, which knows where PyTorch keeps it.
# MUMASK_TORCH=default takes what pip takes by itself; MUMASK_TORCH=cpu takes the CPU build even with a GPU.
install_torch() {
    local python=$1 requirement=$2 how=${MUMASK_TORCH:-auto}
    shift 2
    if [ "$how" = auto ] && { [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null; }; then
        how=default
    fi
    if [ "$how" != default ] && pip_takes_cuda "$python" "$requirement" "$@"; then
        "$python" -m pip install -q 'uv>=0.7.14' "$@" &&
            "$python" -m uv pip install --python "$python" --torch-backend cpu "$requirement" "$@" && return
        say "The CPU build of torch could not be fetched; taking the default build, with CUDA (several GB)."
    fi
    "$python" -m pip install ${quiet[@]+"${quiet[@]}"} "$requirement" "$@"
}

# Does pip, left alone, take a build of torch that depends on CUDA packages?
pip_takes_cuda() {
    local python=$1
    shift
    [ "$(uname -s)" = Linux ] || return 1
    "$python" -m pip install -q --dry-run --no-deps --ignore-installed --report - "$@" 2>/dev/null |
        "$python" -c '
import json, sys
needs = [r for item in json.load(sys.stdin)["install"] for r in item["metadata"].get("requires_dist", [])]
sys.exit(not any(r.startswith(("nvidia-", "cuda-", "triton")) for r in needs))' 2>/dev/null
}
