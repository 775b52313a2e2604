#!/bin/bash
# The runs of tests/bench/LEARNED.md, on one GPU, from the repository's root:
#   bash tests/bench/learned_evidence.sh FILIGREE OUT PART..
# FILIGREE: the program; OUT: a new folder for the runs; PART: planted, language,
# language_long, recall, recall_many. JOBS runs go at a time.
set -u
filigree=$1 out=$2
shift 2
jobs=${JOBS:-8}

# tune RUN LAYOUTS NAME STEPS LR: the weights of RUN with the layouts of a folder, judged as they are and after STEPS more.
tune() {
  local run=$1 name=$3
  { echo "extends: $(realpath "$run")/config.yaml"; cat "$2/pattern.yaml"; } >"$name.yaml"
  local common=("$name.yaml" "train.init_from=$run" train.warmup_steps=0 threads=1)
  # The length of wsd's decay was chosen for the run's steps.
  grep -q '^  decay_steps:' "$run/config.yaml" && common+=(train.decay_steps=null)
  "$filigree" train "${common[@]}" train.steps=1 train.lr=1e-12 train.min_lr=0 train.out="$name.before" >"$name.before.log" 2>&1
  "$filigree" train "${common[@]}" train.steps="$4" train.lr="$5" train.min_lr=1e-5 train.out="$name.after" >"$name.after.log" 2>&1
  local before after
  before=$(grep validation "$name.before.log" | tail -n 1 | sed 's/.*| //')
  after=$(grep validation "$name.after.log" | tail -n 1 | sed 's/.*| //')
  echo "$(basename "$name"): before: $before; after $4 steps: $after"
}

# controls FOLDER LEARNED FULL SHARE STEPS LR: for each seed the learned layout, the same with its heads shuffled, and the
# tiles of most attention in the run FULL (SHARE of all).
controls() {
  local folder=$1 seed
  for seed in 1 2 3; do
    local learned=$folder/$2_seed-$seed full=$folder/$3_seed-$seed
    "$filigree" harden "$learned" --layouts "$learned.same" --overwrite >/dev/null
    "$filigree" harden "$learned" --shuffle-heads "$seed" --layouts "$learned.shuffled" --overwrite >/dev/null
    "$filigree" harden "$full" --budget "$4" --layouts "$full.calibrated" --overwrite >/dev/null
    tune "$learned" "$learned.same" "$learned.same/tuned-same-$seed" "$5" "$6" &
    tune "$learned" "$learned.shuffled" "$learned.shuffled/tuned-shuffled-$seed" "$5" "$6" &
    tune "$full" "$full.calibrated" "$full.calibrated/tuned-calibrated-$seed" "$5" "$6" &
  done
  wait
}

planted() {
  "$filigree" ablate configs/learned/planted-1024.yaml --jobs "$jobs" --out "$out/planted"
  for run in "$out"/planted/*_seed-[0-9]; do
    echo "$(basename "$run"): $("$filigree" eval "$run" | tee "$run/eval.txt" | grep -E ': loss|planted tiles' | sed 's/.*: //' | paste -sd' ')"
  done
  controls "$out/planted" learned full 0.2739 600 5.0e-4
}

language() {
  "$filigree" ablate configs/learned/lm.yaml --jobs "$jobs" --out "$out/language"
  controls "$out/language" learned_layout full 0.231 300 3.0e-4
}

language_long() {
  "$filigree" ablate configs/learned/lm-long.yaml --jobs "$jobs" --out "$out/language-long"
}

# Looking up is learned on short texts, kept on longer ones, and then tried with fewer tiles.
recall() {
  local short=configs/learned/recall-short.yaml
  "$filigree" train $short train.out="$out/recall-64" >"$out/recall-64.log"
  "$filigree" train $short train.out="$out/recall-256" train.init_from="$out/recall-64" data.seq_len=256 train.batch_size=128 \
    train.lr=1.0e-3 train.warmup_steps=50 train.steps=1600 \
    "data.task={mqar: {vocab: 32, pairs: 4, power_a: 1, random_filler: false, val_samples: 300}}" >"$out/recall-256.log"
  "$filigree" train $short train.out="$out/recall-1024" train.init_from="$out/recall-256" data.seq_len=1024 train.batch_size=32 \
    train.lr=1.0e-3 train.schedule=wsd train.warmup_steps=50 train.steps=1600 >"$out/recall-1024.log"
  "$filigree" ablate configs/learned/recall.yaml --jobs "$jobs" --out "$out/recall" train.init_from="$out/recall-1024"
}

# 32 pairs in four tiles; made for a CPU, whose tiles may be of 16.
recall_many() {
  "$filigree" train configs/learned/mqar-short.yaml train.out="$out/mqar-short" >"$out/mqar-short.log"
  "$filigree" ablate configs/learned/mqar.yaml --jobs "$jobs" --out "$out/mqar" train.init_from="$out/mqar-short"
  controls "$out/mqar" learned full 0.2311 150 1.0e-3
}

for part in "$@"; do "$part"; done
