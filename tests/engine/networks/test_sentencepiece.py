"""Tokenizers that are sentencepiece vocabularies alone, as PixArt-Sigma and Chroma have them on the hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import diffedit
from sentencepiece import SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tiny import t5_vocabulary, write_json
from tiny_transformers import write_pixart

from diffedit_cli.engine.networks import families
from diffedit_cli.models import configs, registry

KINDS = {"<pad>": 3, "</s>": 3, "<unk>": 2}
"""Special pieces: control and unknown ones; all others are 1, ordinary."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model like PixArt-Sigma with the tokenizer files that the hub has of it; tokenizer.json is beside the model."""
    folder = write_pixart(tmp_path_factory.mktemp("spm") / "model")
    (folder / "tokenizer" / "tokenizer.json").rename(folder.parent / "tokenizer.json")
    write_json(folder / "tokenizer" / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 0})
    write_vocabulary(folder / "tokenizer" / "spiece.model")
    return folder


def write_vocabulary(path: Path) -> None:
    """Writes the pieces of the tiny T5 tokenizer, with the text normalisation of a trained vocabulary."""
    SentencePieceTrainer.train(
        sentence_iterator=iter(["a cat on grass", "a dog on grass", "the green grass and the cat"] * 20),
        model_prefix=str(path.with_suffix("")), vocab_size=30, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    path.with_suffix(".vocab").unlink()
    proto = ModelProto()
    proto.ParseFromString(path.read_bytes())
    del proto.pieces[:]
    for piece, score in t5_vocabulary():
        proto.pieces.add(piece=piece, score=score, type=KINDS.get(piece, 1))
    path.write_bytes(proto.SerializeToString())


def embedded(folder: Path) -> torch.Tensor:
    model = families.load(folder, "cpu", torch.float32, name="tiny")
    with torch.inference_mode():
        return model.embed("a dog on the green grass").tokens


def test_such_a_tokenizer_reads_what_the_same_one_as_json_reads(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "json")
    (other / "tokenizer" / "spiece.model").unlink()
    shutil.copy(folder.parent / "tokenizer.json", other / "tokenizer")
    assert torch.equal(embedded(folder), embedded(other))


def test_it_counts_in_the_digest_and_is_saved(folder: Path, tmp_path: Path) -> None:
    found = registry.find(str(folder))
    assert folder / "tokenizer" / "spiece.model" in set(found.files())
    saved = tmp_path / "saved"
    assert diffedit("models", "save", saved, "--model", folder).code == 0
    assert registry.find(str(saved)).digest == found.digest
    assert torch.equal(embedded(saved), embedded(folder))
    assert diffedit("models", "save", saved, "--model", folder, "--force").code == 0  # it knows its own files
    with (saved / "tokenizer" / "spiece.model").open("ab") as file:
        file.write(b"\0")
    assert registry.find(str(saved)).digest != found.digest


def grow(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(configs.MOST_PIECES + 1)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (grow, "has more than 8000000 bytes"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "its tokenizer is unreadable"),
        (lambda path: path.write_bytes(b"no vocabulary"), "its tokenizer is unreadable"),
    ],
    ids=["large", "cut", "alien"],
)
def test_a_damaged_one_is_refused(folder: Path, tmp_path: Path, damage: Callable[[Path], object], says: str) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    damage(broken / "tokenizer" / "spiece.model")
    ran = diffedit("doctor", "--model", broken)
    assert ran.code == 4
    (line,) = [line for line in ran.out.decode().splitlines() if line.startswith("model ")]
    assert says in line
