"""Folders of the families with transformers as a stranger might have made them: code, tables, panics, odd times."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_transformers as tiny
import torch
from command import WORDS, diffedit, settled
from tiny import write_json

from diffedit_cli.engine.networks import families
from diffedit_cli.errors import ModelError

EVIL = """
from pathlib import Path
Path({mark!r}).write_text("run")
from transformers import PreTrainedTokenizerFast
class EvilTokenizer(PreTrainedTokenizerFast): pass
"""
LANGUAGE_MODELS = (tiny.write_flux2, tiny.write_z_image, tiny.write_qwen_image)


def changed(folder: Path, file: str, **said: Any) -> None:
    path = folder / file
    write_json(path, json.loads(path.read_text()) | said)


@pytest.mark.parametrize("write", LANGUAGE_MODELS)
def test_a_tokenizer_brings_no_code(
    write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if the answer to a question on standard input would be yes."""
    folder, mark = write(tmp_path / "model"), tmp_path / "mark"
    (folder / "tokenizer" / "evil.py").write_text(EVIL.format(mark=str(mark)))
    auto = {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}
    changed(folder, "tokenizer/tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map=auto)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    loaded: Any = families.load(folder, "cpu", torch.float32)
    assert type(loaded.qwen.tokenizer).__name__ == "Qwen2Tokenizer"
    assert not mark.exists()


@pytest.mark.parametrize("write", LANGUAGE_MODELS)
def test_a_tokenizer_does_not_choose_its_normalizer(write: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    doubling = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    changed(folder, "tokenizer/tokenizer.json", normalizer={"type": "Sequence", "normalizers": [doubling] * 40})
    changed(folder, "tokenizer/tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert families.load(folder, "cpu", torch.float32).embed("a cat").tokens.isfinite().all()


def test_a_panic_of_a_library_is_an_error(tmp_path: Path) -> None:
    folder = tiny.write_chroma(tmp_path / "model")
    changed(folder, "tokenizer/tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    with pytest.raises(ModelError, match="its tokenizer is unreadable"):
        families.load(folder, "cpu", torch.float32)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (tiny.write_z_image, {"invert_sigmas": True}),
        (tiny.write_flux, {"shift_terminal": 1.0}),
        (tiny.write_qwen_image, {"shift_terminal": 1.0}),
    ],
)
def test_times_must_rise(write: Callable[[Path], Path], said: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    changed(folder, "scheduler/scheduler_config.json", **said)
    with pytest.raises(ModelError, match="do not fit each other"):
        families.load(folder, "cpu", torch.float32).levels(4)


def test_a_table_of_positions_is_not_larger_than_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.write_pixart(tmp_path / "model")
    settled(tmp_path, folder, monkeypatch)
    large = {"pos_embed_max_size": 1, "sample_size": 1024, "num_attention_heads": 64, "attention_head_dim": 64}
    changed(folder, "transformer/config.json", **large, patch_size=1)
    ran = diffedit("edit", "cat.png", *WORDS)
    assert ran.code == 4
    assert "pos_embed_max_size takes" in ran.err


@pytest.mark.parametrize("write", LANGUAGE_MODELS)
def test_words_of_the_template_are_not_those_of_the_prompt(write: Callable[[Path], Path], tmp_path: Path) -> None:
    model: Any = families.load(write(tmp_path / "model"), "cpu", torch.float32)
    places = model._places("assistant", ["assistant"])
    prompt = len(model.qwen.tokenizer("assistant").input_ids)
    assert len(places) == prompt
    assert places[0] + model.qwen.leading == len(
        model.qwen.tokenizer(model.qwen.template("").rpartition("<|im_end|>")[0]).input_ids
    )


def test_clip_skip_has_no_effect_where_nothing_reads_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(tmp_path, tiny.write_chroma(tmp_path / "model"), monkeypatch)
    ran = diffedit("edit", "cat.png", *WORDS, "--threshold", 0.3, "--room", 0, "--clip-skip", 1, "--json")
    assert ran.code == 0
    assert any("--clip-skip has no effect" in warning for warning in ran.warnings)
