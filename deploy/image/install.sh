#!/usr/bin/env bash
# The steps of the image, for the Dockerfile, for Modal, and for a machine without containers:
#
#   install.sh system     Debian packages (as root)
#   install.sh comfyui    comfy-cli, and the tested ComfyUI with its torch
#   install.sh pack       this repository: the gateway, and the pack in that ComfyUI, which is started once
#   install.sh identity   InsightFace in ComfyUI's Python, for the two InstantID workflows
#   install.sh embedded   this repository with the embedded engine instead of a ComfyUI: no GPU, no weights
#
# A step may be run again. They are apart so that an image keeps torch's layer while this repository changes.
set -euo pipefail

PREFIX="${RYLA_PREFIX:-/opt/ryla}"
DEVICE="${RYLA_DEVICE:-nvidia}"                  # or cpu
COMFYUI_URL="${RYLA_COMFYUI_URL:-}"              # a mirror: git URL or path
PYTHON="${RYLA_PYTHON:-$PREFIX/venv/bin/python}" # the gateway's; made where it is not there
COMFY_CLI=1.23.0
COMFYUI=0.33.0

BIN="$(dirname "$PYTHON")"
REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
WORKSPACE="$PREFIX/ComfyUI"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR="${PIP_NO_CACHE_DIR-1}" DO_NOT_TRACK=1
unset VIRTUAL_ENV CONDA_PREFIX                   # comfy-cli would install into an active environment

system() {
    # git is for comfy-cli; libGL and GLib are what OpenCV, which InsightFace brings, is linked against.
    apt-get update
    apt-get install -y --no-install-recommends ca-certificates git libgl1 libglib2.0-0
    rm -rf /var/lib/apt/lists/*
}

comfyui() {
    # In an environment of its own: run by a system's Python, comfy-cli would install ComfyUI's packages there.
    local tool="$PREFIX/comfy-cli"
    [ -x "$tool/bin/python" ] || python3 -m venv "$tool"
    "$tool/bin/python" -m pip install --quiet "comfy-cli==$COMFY_CLI"
    # What stopped half-way goes on with --restore.
    "$tool/bin/comfy" --skip-prompt --no-json --workspace "$WORKSPACE" install \
        --version "$COMFYUI" "--$DEVICE" --skip-manager ${COMFYUI_URL:+--url "$COMFYUI_URL"} \
        $([ ! -e "$WORKSPACE/main.py" ] || echo --restore)
    # comfy-cli exits with 0 on some failures.
    "$(comfyui_python)" -c 'import torch' || { echo "comfy-cli did not install torch for $WORKSPACE" >&2; exit 1; }
}

pack() {
    make_python
    "$PYTHON" -m pip install --quiet -e "$REPOSITORY[gateway]"
    "$BIN/ryla" comfyui install --path "$WORKSPACE" "--$DEVICE"
}

identity() {
    "$(comfyui_python)" -m pip install --quiet 'insightface>=2.0'
}

embedded() {
    make_python
    "$PYTHON" -m pip install --quiet -e "$REPOSITORY[gateway,embedded,identity]"
}

make_python() {
    [ -x "$PYTHON" ] || python3 -m venv "$(dirname "$BIN")"
}

comfyui_python() {
    for folder in .venv venv; do
        [ -x "$WORKSPACE/$folder/bin/python" ] && echo "$WORKSPACE/$folder/bin/python" && return
    done
    echo "ComfyUI's Python is not in $WORKSPACE; first: install.sh comfyui" >&2
    exit 1
}

[ $# -gt 0 ] || { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
for step in "$@"; do
    case "$step" in
        system | comfyui | pack | identity | embedded) "$step" ;;
        *) echo "install.sh has no step $step: system, comfyui, pack, identity, embedded" >&2; exit 2 ;;
    esac
done
