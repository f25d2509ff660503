"""Averages a checkpoint with one trained on from it: run ``python -m training.blend OLD NEW -o CHECKPOINT``.

The mean regains abilities that were forgotten meanwhile and loses little of what was learnt (arXiv:2109.01903).
Afterwards ``python -m training.unet`` can continue from it, or ``training.export`` export it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from training.export import learnt, token_embedding, token_rows
from training.words import trained_words
from training.workspace import save_atomically


def blend(old: dict[str, Any], new: dict[str, Any], share: float) -> dict[str, Any]:
    """Returns a checkpoint whose weights are the share (0 to 1) of the newer ones, the rest of the older.

    Both are exponential averages. The embeddings of words that only the newer checkpoint knows are taken from it.
    """
    known = token_rows(trained_words(learnt(old["wider_pictures"])))
    older, newer = old["average"], new["average"]
    mean = {
        name: torch.lerp(older[name].float(), weight.float(), share) if weight.is_floating_point() else weight
        for name, weight in newer.items()
    }
    embedding = token_embedding(mean)
    rows = newer[embedding].float().clone()
    rows[known] = mean[embedding][known]
    mean[embedding] = rows
    kept = {name: new[name] for name in ("settings", "pictures", "wider_pictures")}
    return {**kept, "step": 0, "model": mean, "average": mean}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="weight of the newer checkpoint; default: 0.5")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    old, new = (torch.load(path, weights_only=False, map_location="cpu") for path in (options.old, options.new))
    save_atomically(blend(old, new, options.share), options.output)
    print(f"{options.output}: {options.share:g} of {options.new}, the rest of {options.old}")


if __name__ == "__main__":
    main()
