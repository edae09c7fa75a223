#!/usr/bin/env bash
# gpu_proof.sh [MODEL [OUT]] proves on a machine with GPUs and vLLM that rewards are read right there, and how fast.
# OUT (gpu-proof) gets gpu-proof.json, gpu-proof.html, the page of `verify`, and a log a step. QUICK=1 takes minutes less.
# A step that fails does not keep the others from running; the exit status says whether one did.
set -uo pipefail
MODEL=${1:-default}
OUT=${2:-gpu-proof}
SAMPLE=()
[ -z "${QUICK:-}" ] || SAMPLE=(--limit 4)
REPO=$(cd "$(dirname "$0")/.." && pwd)
BIN=${BIN:-$REPO/.venv/bin}
GPUS=$(nvidia-smi -L 2>/dev/null | wc -l)
mkdir -p "$OUT"
: >"$OUT/steps.tsv"

step() { # NAME COMMAND...: its output in OUT/NAME.log, its last line is its result
  local name=$1 began=$SECONDS status
  shift
  echo "== $name: $*"
  "$@" >"$OUT/$name.log" 2>"$OUT/$name.errors"
  status=$?
  printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - began))" >>"$OUT/steps.tsv"
  [ $status = 0 ] || { echo "   FAILED ($status)"; tail -n 5 "$OUT/$name.log" "$OUT/$name.errors"; }
}
verify() { "$BIN/criticrm" verify "$MODEL" --json "${SAMPLE[@]}" "$@"; }

"$BIN/python" "$REPO/scripts/gpu_proof_page.py" conversations "$OUT/long.jsonl" || exit 2
step self-check "$BIN/criticrm" doctor "$MODEL" --start --json
step verify verify --report "$OUT/verify.html"
step verify-float32 verify --dtype float32
step verify-eight-samples verify --samples 8
step verify-long-prompts verify --conversations "$OUT/long.jsonl"
step verify-eager verify --enforce-eager true
step verify-v1-runner env VLLM_USE_V2_MODEL_RUNNER=0 "$BIN/criticrm" verify "$MODEL" --json "${SAMPLE[@]}"
for run in cold warm; do
  step "verify-batch-invariant-$run" env VLLM_BATCH_INVARIANT=1 "$BIN/criticrm" verify "$MODEL" --json "${SAMPLE[@]}"
done
[ "$GPUS" -lt 2 ] || step verify-two-gpus verify --tensor-parallel-size 2
step bench "$BIN/python" "$REPO/benchmarks/run.py" --model "$MODEL" ${QUICK:+--quick}
"$BIN/python" "$REPO/scripts/gpu_proof_page.py" page "$OUT"
