#!/usr/bin/env bash
# What runs on a GPU take against what was planned, in a minute: tests/bench/memory_check.sh [BINARY]
# Text is the Python standard library's, /usr/lib/python3.12; TEXT=FOLDER names another. Each run lasts a few
# steps and is evaluated in between; learned patterns warm up, learn and harden. Ends with 1 if a plan is more
# than 5 % off.
set -euo pipefail
binary=$(realpath "${1:-build/release/filigree}")
text=${TEXT:-/usr/lib/python3.12}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
files=("$text"/*.py)
cp "${files[@]:0:60}" "$work"

cat >"$work/base.yaml" <<END
device: cuda
pattern: full
model: {type: decoder, preset: llama, dim: 512, n_layers: 8, n_heads: 8, dropout: 0.1, vocab_size: 4096, tied_embeddings: false}
data: {train: ["$work/*.py"], val_fraction: 0.1, seq_len: 4096}
train: {steps: 20, batch_size: 8, micro_batch_size: 8, lr: 1.0e-3, eval_interval: 8, eval_batches: 2, out: $work/run}
checkpoint: {interval: 0, best: false}
END

failed=0
printf '%-28s %12s %12s %8s\n' run 'planned, MiB' 'taken, MiB' ratio
check() {
  local name=$1
  shift
  if ! "$binary" train "$work/base.yaml" --overwrite "$@" >"$work/log" 2>&1; then
    printf '%-28s failed:\n' "$name"
    tail -n 3 "$work/log"
    failed=1
    return
  fi
  local ratio
  ratio=$(sed -n 's/^memory *peak \([0-9.]*\) MiB, expected \([0-9.]*\) MiB$/\2 \1/p' "$work/log" |
    awk -v name="$name" '{ printf "%-28s %12.1f %12.1f %8.3f\n", name, $1, $2, $2 / $1 }')
  echo "$ratio"
  awk -v ratio="${ratio##* }" 'BEGIN { exit !(ratio > 0.95 && ratio < 1.05) }' || failed=1
}

check 'llama 512 x 8, dropout 0.1'
check 'llama 512 x 8' model.dropout=0
check 'gpt2-small' 'model={type: decoder, preset: gpt2, dim: 768, n_layers: 12, n_heads: 12}' data.seq_len=1024
check 'local window 512' 'pattern={local: {window: 512}}'
check 'learned_layout' 'pattern={learned_layout: {budget: 0.1}}'
check 'learned_span' 'pattern={learned_span: {budget: 0.1}}'
check 'block_topk' 'pattern={block_topk: {topk: 4, sinks: 1}}'
check 'activation checkpointing' model.activation_checkpointing=true
exit $failed
