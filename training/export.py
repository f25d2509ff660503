"""Writes the trained models as a Stable-Diffusion-format folder in float16: run ``python -m training.export``."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from training.evaluate import evaluate
from training.fitness import calibrate
from training.places import PLACES
from training.scenes import FRUIT, MIXED_FRUIT, PRESENT, WIDER, World
from training.settings import UnetTraining
from training.unet import Denoiser, build_scheduler, unet_folder
from training.vae import finished_vae
from training.words import END, START, TOKEN, build_tokenizer, trained_words
from training.workspace import NPM_PACKAGE, workspace

MOST_MEGABYTES = 30
CARD = Path(__file__).with_name("card.md")


def token_rows(words: Sequence[str]) -> list[int]:
    """Returns rows of the trained embedding in the exported tokenizer's order: start, end, unknown, the words.

    The unknown token gets the embedding of the end token, which adds no meaning.
    """
    unknown = END
    return [START, END, unknown, *(TOKEN[word] for word in words)]


def token_embedding(weights: Mapping[str, Tensor]) -> str:
    """Returns the name of the token embedding among a text encoder's weights."""
    return next(name for name in weights if name.endswith("token_embedding.weight"))


def learnt(wider_pictures: int) -> World:
    """Returns the world known to a model that was trained on this many pictures of the wider world."""
    return WIDER if wider_pictures else PRESENT


def compact_text_encoder(trained: CLIPTextModel, words: Sequence[str]) -> CLIPTextModel:
    """Returns the text encoder with only the embedding rows of the trained words."""
    rows = token_rows(words)
    settings = trained.config.to_dict() | {"vocab_size": len(rows)}
    compact = CLIPTextModel(CLIPTextConfig.from_dict(settings))
    weights = trained.state_dict()
    name = token_embedding(weights)
    weights[name] = weights[name][rows]
    compact.load_state_dict(weights)
    return compact


def world(pictures: int, wider_pictures: int) -> dict[str, Any]:
    """Returns the content of ``world.json``: numbers of training pictures, and all that the model knows, by kind."""
    known = learnt(wider_pictures)
    wider = {"wider_pictures": wider_pictures, "colours": known.colours} if wider_pictures else {}
    return {
        "pictures": pictures,
        "words": trained_words(known),
        "objects": list(known.objects),
        "places": {name: PLACES[name].phrase for name in known.places},
        "bowls": [*FRUIT, MIXED_FRUIT],
        **wider,
    }


def export(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Writes the folder, replacing an existing one; returns the content of its ``world.json``."""
    saved = torch.load(checkpoint, weights_only=False, map_location="cpu")
    settings = UnetTraining(**saved["settings"])
    vae = finished_vae().cpu()
    model = Denoiser(settings, vae.config.latent_channels)
    model.load_state_dict(saved["average"])
    known = world(saved["pictures"], saved.get("wider_pictures", 0))
    beside = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=compact_text_encoder(model.text_encoder, known["words"]).half(),
        tokenizer=build_tokenizer(known["words"]),
        unet=model.unet.half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(beside)
    for file in beside.glob("*/config.json"):  # without the path of this machine that a part was loaded from
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        if "dtype" in config:
            config["dtype"] = "float32"  # so that plain from_pretrained loads it like the other parts
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    shutil.copy(Path(__file__).with_name("LICENSE.fluent-emoji"), beside / "LICENSE")
    (beside / "world.json").write_text(json.dumps(known, indent=1) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    beside.rename(folder)
    return known


def write_card(folder: Path, known: Mapping[str, Any], figures: Mapping[str, float]) -> None:
    """Writes the model card with the figures of this folder."""
    megabytes = sum(file.stat().st_size for file in folder.rglob("*.*")) / 1e6
    assert megabytes <= MOST_MEGABYTES, f"{megabytes:.1f} MB is more than {MOST_MEGABYTES}"
    card = CARD.read_text().format(
        sprites=NPM_PACKAGE,
        objects=", ".join(known["objects"]),
        colours=f"- In colours, too: {', '.join(known['colours'])}.\n" if "colours" in known else "",
        places=", ".join(known["places"].values()),
        bowls=", ".join(known["bowls"]),
        words=" ".join(known["words"]),
        pictures=_counted(known),
        megabytes=f"{megabytes:.1f}",
        **{name: f"{value:.2f}" for name, value in figures.items()},
    )
    (folder / "README.md").write_text(card)


def _counted(known: Mapping[str, Any]) -> str:
    wider = f" ({known['wider_pictures']:,} of the wider world)" if "wider_pictures" in known else ""
    return f"{known['pictures']:,} pictures{wider}"


def export_folder() -> Path:
    return workspace() / "export"


def best_checkpoint() -> Path:
    """Returns the path of the decayed weights if there are any, else of the main run's checkpoint."""
    decayed = unet_folder() / "decayed.pt"
    return decayed if decayed.exists() else unet_folder() / "checkpoint.pt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: decayed.pt if it exists, else checkpoint.pt")
    parser.add_argument("-o", "--output", type=Path, default=export_folder())
    parser.add_argument("--scenes", type=int, default=50, help="held-out scenes behind the card's figures")
    options = parser.parse_args()
    known = export(options.checkpoint or best_checkpoint(), options.output)
    calibrate(options.output)
    write_card(options.output, known, evaluate(options.output, options.scenes))
    print(f"{options.output}: trained on {_counted(known)}")


if __name__ == "__main__":
    main()
