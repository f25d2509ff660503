"""Creates a checkpoint from an exported folder, if none is left: run ``python -m training.restart FOLDER``.

Afterwards ``python -m training.unet`` finds a checkpoint with the folder's weights and, if there is no finished VAE,
the folder's VAE. Only the state of the optimizer is lost.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from training.export import token_embedding, token_rows
from training.settings import UnetTraining
from training.unet import Denoiser, unet_folder
from training.vae import vae_folder
from training.workspace import save_atomically


def spread_text_encoder(exported: CLIPTextModel, words: list[str], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the exported weights with each word's embedding in its training row; all other rows are `fresh`."""
    weights = exported.state_dict()
    name = token_embedding(weights)
    rows = fresh[name].clone()
    rows[token_rows(words)] = weights[name].float()
    return {key: value.float() for key, value in weights.items()} | {name: rows}


def restart(folder: Path) -> int:
    """Writes VAE and checkpoint from an exported folder; returns the number of pictures it was trained on."""
    checkpoint, finished = unet_folder() / "checkpoint.pt", vae_folder() / "finished"
    if checkpoint.exists():
        raise SystemExit(f"{checkpoint} exists already; continue training from it, or move it away")
    world: dict[str, Any] = json.loads((folder / "world.json").read_text())
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    settings = UnetTraining(
        channels=tuple(unet.config.block_out_channels),
        text_width=text_encoder.config.hidden_size,
        text_layers=text_encoder.config.num_hidden_layers,
    )
    torch.manual_seed(0)
    model = Denoiser(settings, unet.config.in_channels)
    text = spread_text_encoder(text_encoder, world["words"], model.text_encoder.state_dict())
    model.text_encoder.load_state_dict(text)
    model.unet.load_state_dict(unet.state_dict())
    if not finished.exists():
        AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).save_pretrained(finished)
    save_atomically(
        {
            "settings": vars(settings),
            "step": 0,
            "pictures": world["pictures"],
            "wider_pictures": world.get("wider_pictures", 0),
            "model": model.state_dict(),
            "average": model.state_dict(),
        },
        checkpoint,
    )
    return int(world["pictures"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(f"{unet_folder()}: checkpoint written, continues after {restart(folder):,} pictures")


if __name__ == "__main__":
    main()
