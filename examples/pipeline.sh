#!/usr/bin/env bash
# The same picture turned into several things, from one mask and one inversion: pipeline.sh cat.png cat dog rabbit tiger
set -euo pipefail

picture=$1 from=$2
shift 2
stem=${picture%.*}

diffedit mask "$picture" --from "$from" --to "$1" -o "$stem.mask.png"
diffedit invert "$picture" --caption "$from" -o "$stem.latents.safetensors"
for to in "$@"; do
    diffedit edit "$picture" --mask "$stem.mask.png" --latents "$stem.latents.safetensors" \
        --from "$from" --to "$to" -o "$stem.${to// /-}.png" --json
done | tee "$stem.results.jsonl"
