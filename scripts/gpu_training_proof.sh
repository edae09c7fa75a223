#!/usr/bin/env bash
# gpu_training_proof.sh BASE DATA [OUT] is for a machine with a GPU and without vLLM: a training with critiques, its
# scores by transformers, and `benchmarks/training.py` with the GPU's utilisation where TRL is installed.
# BASE is a model folder ('default-base'), DATA a file of preference pairs. OUT (gpu-training-proof) gets everything.
set -euo pipefail
BASE=${1:?a base model}
DATA=${2:?a file of preference pairs}
OUT=${3:-gpu-training-proof}
REPO=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-$REPO/.venv/bin/python}
criticrm() { "$PYTHON" -m criticrm_server "$@"; }
mkdir -p "$OUT"

cat >"$OUT/config.yaml" <<EOF
base: $BASE
data: $(realpath "$DATA")
critiques: critiques
max_critique_tokens: 128
lora: {r: 8, lora_alpha: 16, target_modules: all-linear}
objective: {schedule: constant}
trainer: {num_train_epochs: 1, per_device_train_batch_size: 8, learning_rate: 2.0e-4, bf16: true}
EOF
criticrm critiques sample "$DATA" --model "$BASE" --writer transformers --n 1 --max-tokens 128 --out "$OUT/critiques"
criticrm train "$OUT/config.yaml" --out "$OUT/critic"
CRITICRM_ENGINE=transformers criticrm evaluate "$DATA" --model "$OUT/critic" --out "$OUT/evaluation"
if "$PYTHON" -c 'import trl' 2>/dev/null; then
  "$PYTHON" "$REPO/benchmarks/training.py" --model "$BASE" --data "$DATA" | tee "$OUT/benchmark.txt"
fi
echo "== wrote $OUT"
