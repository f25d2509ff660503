"""Writes tiny random models that generate prompts, in the formats of BLIP and Flan-T5."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny import WORDS, t5_tokenizer, t5_vocabulary
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    T5Config,
    T5ForConditionalGeneration,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")


def write_blip(folder: Path, longest: int = 64) -> Path:
    """Writes a BLIP model for pictures of 32 px with a few words, and captions of at most `longest` tokens."""
    torch.manual_seed(40)
    tokens = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokens), "encoder_hidden_size": 16, "max_position_embeddings": longest}
    special = {"bos_token_id": tokens["[DEC]"], "sep_token_id": tokens["[SEP]"], "eos_token_id": tokens["[SEP]"]}
    config = BlipConfig(
        text_config={**sizes, **text, **special, "pad_token_id": 0, "initializer_range": 1.0},
        vision_config={**sizes, "image_size": 32, "patch_size": 8, "initializer_range": 1.0},
        initializer_range=1.0,
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, BertTokenizer(vocab=tokens, bos_token="[DEC]")).save_pretrained(folder)
    return folder


def write_t5(folder: Path) -> Path:
    """Writes a T5 model with a vocabulary of a few words and letters."""
    torch.manual_seed(50)
    config = T5Config(
        vocab_size=len(t5_vocabulary()), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    t5_tokenizer(folder)
    return folder
