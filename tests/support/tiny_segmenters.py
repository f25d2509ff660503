"""Writes tiny random models that find things by words, in the formats of CLIPSeg, Grounding DINO and SAM 2."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tiny import WORDS, tokenizer, vocabulary, write_json
from transformers import (
    BertTokenizer,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    Sam2Config,
    Sam2Model,
)

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".")


def write_clipseg(folder: Path) -> Path:
    """Writes a CLIPSeg model with a few words."""
    torch.manual_seed(140)
    vocab, _ = vocabulary()
    text = {"vocab_size": len(vocab), "num_hidden_layers": 1, "max_position_embeddings": 77}
    text |= {"bos_token_id": len(vocab) - 2, "eos_token_id": len(vocab) - 1, "pad_token_id": len(vocab) - 1}
    config = CLIPSegConfig(
        text_config={**SIZES, **text},
        vision_config={**SIZES, "num_hidden_layers": 3, "image_size": 64, "patch_size": 32},
        projection_dim=8, extract_layers=[0, 1, 2], reduce_dim=8, decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )  # fmt: skip
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    tokenizer(folder, fast=True)
    return folder


def write_grounding_dino(folder: Path) -> Path:
    """Writes a Grounding DINO model with a few words; its random boxes differ in their scores."""
    torch.manual_seed(150)
    tokens = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}
    text = {"vocab_size": len(tokens), "num_hidden_layers": 1, "max_position_embeddings": 512, "model_type": "bert"}
    seen = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 7}
    config = GroundingDinoConfig(
        backbone_config={**seen, "out_indices": [2, 3, 4]}, text_config={**SIZES, **text}, num_queries=12,
        encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2,
        decoder_attention_heads=2, d_model=32,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    BertTokenizer(vocab=tokens).save_pretrained(folder)
    return folder


def write_sam2(folder: Path, *, of_films: bool = False) -> Path:
    """Writes a SAM 2 model for 256 px pictures; `of_films` as Meta publishes it, within the model for films."""
    torch.manual_seed(160)
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 1, 1],
        "global_attention_blocks": [3], "image_size": [256, 256],
    }  # fmt: skip
    vision = {
        "model_type": "sam2_vision_model", "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]], "fpn_hidden_size": 16,
    }  # fmt: skip
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 16, "image_size": 256, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    network = Sam2Model(config)
    with torch.no_grad():
        for name, weight in network.mask_decoder.named_parameters():
            if "hypernetworks" in name or "upscale" in name:
                weight.mul_(8)  # else every place is as probable as any other
    network.save_pretrained(folder)
    if of_films:
        said = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", said | {"architectures": ["Sam2VideoModel"], "model_type": "sam2_video"})
    return folder
