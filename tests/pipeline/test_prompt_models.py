"""--caption auto and --expand: prompts that other models write, once, and that are recorded as they were used."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
from pathlib import Path

import pytest
import torch
from command import FAST, WORDS, diffedit, picture
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file
from tiny import write_json
from tiny_writers import write_blip, write_t5
from transformers import BlipForConditionalGeneration, BlipProcessor, T5ForConditionalGeneration, T5Tokenizer

from diffedit_cli.engine.networks import families
from diffedit_cli.images import provenance
from diffedit_cli.models import transformers_folder
from diffedit_cli.pipeline import prompt_models
from diffedit_cli.pipeline.params import Params

CAPTION = ("--caption", "auto", "--caption-model", "blip")
EXPAND = ("--expand", 3, "--expand-model", "t5")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writers")
    write_blip(folder / "blip")
    write_t5(folder / "t5")
    return folder


@pytest.fixture
def here(kept: Path, tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with both writers and a picture; whoever connects fails."""
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFEDIT_MODEL", str(tiny_epsilon))
    for name, value in zip(("STEPS", "MAPS", "THRESHOLD"), FAST[1::2], strict=True):
        monkeypatch.setenv(f"DIFFEDIT_{name}", value)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was attempted"))
    picture(tmp_path / "cat.png")
    return tmp_path


def record(path: str) -> dict[str, object]:
    found = provenance.read_record(Path(path))
    assert found is not None
    return found


@pytest.mark.usefixtures("here")
def test_the_caption_is_blips_and_is_recorded() -> None:
    processor = BlipProcessor.from_pretrained("blip")
    seen = processor(images=Image.open("cat.png").convert("RGB"), return_tensors="pt")
    tokens = BlipForConditionalGeneration.from_pretrained("blip").generate(**seen, max_new_tokens=40, do_sample=False)
    expected = processor.decode(tokens[0], skip_special_tokens=True).strip()
    assert expected
    assert diffedit("invert", "cat.png", *CAPTION).code == 0
    assert record("cat.latents.safetensors")["caption"] == expected
    written = load_file("cat.latents.safetensors")["trajectory"]
    assert diffedit("invert", "cat.png", "--caption", expected, "-o", "told.safetensors", "--no-cache").code == 0
    assert torch.equal(load_file("told.safetensors")["trajectory"], written)
    command = shlex.split(diffedit("info", "cat.latents.safetensors").out.decode().splitlines()[-1])
    assert command[command.index("--caption") + 1] == expected
    assert "--caption-model" not in command


@pytest.mark.usefixtures("here")
def test_the_values_that_an_edit_keeps_are_those_of_the_caption() -> None:
    """Also with latents, which know what `auto` was."""
    assert diffedit("edit", "cat.png", *WORDS, *CAPTION, "--keep", 0.5, "-o", "once.png").code == 0
    made = record("once.png")
    assert isinstance(made["edit"], dict)
    assert isinstance(made["latents"], dict)
    assert made["edit"]["caption"] == made["latents"]["caption"] != "auto"
    assert diffedit("mask", "cat.png", *WORDS, "-o", "m.png").code == 0
    assert diffedit("invert", "cat.png", *CAPTION, "-o", "l.safetensors").code == 0
    given = ("--mask", "m.png", "--latents", "l.safetensors", "--caption", "auto")
    assert diffedit("edit", "cat.png", *WORDS, *given, "--keep", 0.5, "-o", "given.png").code == 0
    assert Image.open("given.png").tobytes() == Image.open("once.png").tobytes()


@pytest.mark.usefixtures("here")
def test_a_caption_is_asked_for_once_for_each_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    caption = prompt_models._caption
    monkeypatch.setattr(prompt_models, "_caption", lambda *given: asked.append(given[1]) or caption(*given))
    picture(Path("other.png"), (40, 60))
    assert diffedit("edit", "cat.png", *WORDS, *CAPTION).code == 0
    assert diffedit("invert", "cat.png", *CAPTION).code == 0
    assert len(asked) == 1
    assert diffedit("mask", "cat.png", *WORDS).code == 0
    latents = ("--latents", "cat.latents.safetensors")
    assert diffedit("edit", "cat.png", *WORDS, *CAPTION, *latents).code == 0
    assert len(asked) == 1
    assert diffedit("invert", "other.png", *CAPTION).code == 0
    assert diffedit("invert", "cat.png", *CAPTION, "--no-cache").code == 0
    assert len(asked) == 3


@pytest.mark.usefixtures("here")
def test_the_sentences_are_t5s_and_their_embeddings_are_averaged(tiny_epsilon: Path) -> None:
    assert diffedit("edit", "cat.png", *WORDS, *EXPAND, "--save-embeds", "e").code == 0
    found = record("cat.edited.png")
    mask, edit = found["mask"], found["edit"]
    assert isinstance(mask, dict)
    assert isinstance(edit, dict)
    for name, concept in (("from", "cat"), ("to", "dog")):
        assert (mask[name], len(mask[f"{name}-sentences"])) == (concept, 3)
        assert len(set(mask[f"{name}-sentences"])) == 3
    assert edit["to-sentences"] == mask["to-sentences"]
    model = families.load(tiny_epsilon, "cpu", torch.float32)
    mean = torch.cat([model.embed(text).tokens for text in mask["to-sentences"]]).mean(0, keepdim=True)
    torch.testing.assert_close(load_file("e/to.safetensors")["tokens"], mean, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("here")
def test_the_same_seed_writes_the_same_whatever_was_drawn_before() -> None:
    def write(seed: int) -> object:
        return prompt_models.PromptModels(None, Path("memo")).with_sentences(
            Params(from_="cat", to="dog", seed=seed, expand=3, expand_model="t5")
        )

    first = write(0)
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    assert write(0) == first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert write(1) != first


@pytest.mark.usefixtures("here")
def test_the_question_is_that_of_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    generate = T5ForConditionalGeneration.generate

    def listening(self: T5ForConditionalGeneration, **given: object) -> object:
        asked.append(given["input_ids"])
        return generate(self, **given)

    monkeypatch.setattr(T5ForConditionalGeneration, "generate", listening)
    prompt_models.PromptModels(None, Path("memo")).with_sentences(Params(from_="cat", expand=2, expand_model="t5"))
    question = "Provide a caption for images containing a cat. The captions should be in English and should be no "
    whole = T5Tokenizer.from_pretrained("t5")(f"{question}longer than 150 characters.", return_tensors="pt")
    assert torch.equal(asked[0], whole["input_ids"])


@pytest.mark.usefixtures("here")
def test_info_repeats_an_expanded_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert diffedit("edit", "cat.png", *WORDS, *EXPAND).code == 0
    before = Path("cat.edited.png").read_bytes()
    command = shlex.split(diffedit("info", "cat.edited.png").out.decode().splitlines()[-1])
    assert command[3:7] == ["--from", "cat", "--to", "dog"]
    at = command.index("--expand")
    assert command[at : at + 4] == ["--expand", "3", "--expand-model", "t5"]
    monkeypatch.setattr(prompt_models, "_sentences", lambda *_: pytest.fail("they are in the cache"))
    assert diffedit(*["cat.png" if word == "PICTURE" else word for word in command[1:]]).code == 0
    assert Path("cat.edited.png").read_bytes() == before


@pytest.mark.usefixtures("here")
def test_what_counts_is_what_was_written() -> None:
    """Other sentences, another mask; the same words without them, another again."""
    caches = [
        diffedit("mask", "cat.png", *WORDS, *words, "--json", "--force").json["cache"]["mask"]
        for words in (EXPAND, EXPAND, (*EXPAND, "--seed", 1), ("--expand", 2, *EXPAND[2:]), ())
    ]
    assert caches == ["miss", "hit", "miss", "miss", "miss"]


@pytest.mark.usefixtures("here")
def test_a_damaged_entry_is_written_again() -> None:
    cache = ("--cache-dir", "kept")
    assert diffedit("invert", "cat.png", *CAPTION, *cache).code == 0
    (entry,) = Path("kept").glob("caption/*/*")
    entry.write_bytes(entry.read_bytes()[:-2])
    ran = diffedit("invert", "cat.png", *CAPTION, *cache, "--json", "--force")
    assert [warning for warning in ran.json["warnings"] if "damaged" in warning]
    assert diffedit("invert", "cat.png", *CAPTION, *cache, "--json", "--force").json["warnings"] == []


BAD = [
    (("--caption", "auto"), 4, "diffedit models pull Salesforce/blip-image-captioning-large"),
    (("--caption", "auto", "--offline"), 4, "diffedit models pull Salesforce/blip-image-captioning-large"),
    (("--caption", "auto", "--caption-model", "nonesuch"), 4, "no model nonesuch on this machine"),
    (("--caption", "auto", "--caption-model", "t5"), 4, "t5 is not a BlipForConditionalGeneration"),
    (("--caption", "auto", "--caption-model", "pickled"), 4, "pickled has no .safetensors weights"),
    (("--caption", "auto", "--caption-model", "disguised"), 4, "is a pickled file"),
    (("--caption", "auto", "--caption-model", "partless"), 4, "partless cannot be loaded"),
    (("--expand", 4), 4, "diffedit models pull google/flan-t5-large"),
    (("--expand", 4, "--expand-model", "blip"), 4, "blip is not a T5ForConditionalGeneration"),
    (("--expand", -1), 2, "--expand must be between 0 and 64, not -1"),
]


@pytest.mark.parametrize(("words", "code", "says"), BAD, ids=[says for _, _, says in BAD])
def test_what_is_missing_or_wrong_is_said(
    here: Path, words: tuple[str, ...], code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here / "hub"))
    for name in ("pickled", "disguised", "partless"):
        shutil.copytree("blip", name)
    weights = Path("pickled/model.safetensors")
    torch.save({}, weights.rename(weights.with_name("pytorch_model.bin")))
    torch.save({}, "disguised/model.safetensors")
    Path("partless/tokenizer.json").unlink()
    Path("partless/model.safetensors").write_bytes(b"\0" * 100)
    ran = diffedit("edit", "cat.png", *WORDS, *words)
    assert (ran.code, ran.out) == (code, b"")
    assert says in ran.lines[-1]
    assert not {"Traceback", "should not"} & set(ran.err.split("\n"))
    assert not Path("cat.edited.png").exists()


@pytest.mark.usefixtures("here")
def test_each_picture_of_several_has_a_caption_of_its_own() -> None:
    picture(Path("other.png"), (40, 60))
    ran = diffedit("run", "cat.png", "other.png", *WORDS, *CAPTION, "--out", "out", "--save-embeds", "e")
    assert ran.code == 2
    assert "works with one picture only" in ran.err
    assert diffedit("run", "cat.png", *WORDS, *CAPTION, "--out", "out", "--save-embeds", "e").code == 0
    said = json.loads(diffedit("info", "e/caption.safetensors", "--json").out)
    assert said["prompt"] == record("out/cat.png")["latents"]["caption"]  # type: ignore[index]


@pytest.mark.usefixtures("here")
def test_the_built_in_model_still_says_what_it_does_not_know() -> None:
    ran = diffedit("mask", "cat.png", *WORDS, *EXPAND, "--model", "builtin")
    assert ran.code == 4
    assert "it knows only these words" in ran.err


def test_a_model_without_a_known_architecture_is_refused(tmp_path: Path, here: Path) -> None:
    write_json(here / "odd" / "config.json", {"architectures": "BlipForConditionalGeneration"})
    ran = diffedit("invert", "cat.png", "--caption", "auto", "--caption-model", tmp_path / "odd")
    assert ran.code == 4


@pytest.mark.parametrize(
    ("file", "said", "says"),
    [
        ("config.json", {"num_layers": 16, "d_ff": 2**16}, "far larger network than its weights fill"),
        ("config.json", {"transformers_weights": "adapter_model.bin"}, "transformers_weights is"),
        ("model.safetensors.index.json", {"weight_map": {"a": "w.bin"}}, "names 'w.bin'"),
        ("adapter_config.json", {"peft_type": "LORA", "r": 300_000}, "has an adapter in"),
    ],
)
def test_a_strangers_writer_takes_no_more_than_its_weights(
    here: Path, file: str, said: dict[str, object], says: str
) -> None:
    path = here / "t5" / file
    write_json(path, (json.loads(path.read_text()) if path.is_file() else {}) | said)
    ran = diffedit("edit", "cat.png", *WORDS, *EXPAND)
    assert ran.code == 4
    assert says in ran.lines[-1]


def test_how_a_model_writes_is_not_its_own_to_say(here: Path) -> None:
    """A hundred thousand beams would take all memory."""
    writer = transformers_folder.find("t5", "T5ForConditionalGeneration")
    expected = prompt_models._sentences(writer, "cat", 2, "a")
    said = {"num_beams": 4, "num_beam_groups": 2, "repetition_penalty": 9.0, "min_new_tokens": 100}
    for folder in ("t5", "blip"):
        path = here / folder / "generation_config.json"
        write_json(path, json.loads(path.read_text()) | said)
    path = here / "blip" / "config.json"
    settings = json.loads(path.read_text())
    write_json(path, settings | {"text_config": settings["text_config"] | said})
    assert prompt_models._sentences(writer, "cat", 2, "a") == expected
    describer = transformers_folder.find("blip", "BlipForConditionalGeneration")
    blip = prompt_models._settled(describer.network(BlipForConditionalGeneration))
    assert {part.generation_config.num_beams for part in blip.modules() if hasattr(part, "generation_config")} == {None}


@pytest.mark.usefixtures("here")
def test_what_another_model_would_write_is_not_up_to_date() -> None:
    """--caption-model and --expand-model are names; another model may be in the place of the named one."""

    def statuses() -> list[str]:
        one = diffedit("invert", "cat.png", *CAPTION, "--json")
        other = diffedit("mask", "cat.png", *WORDS, *EXPAND, "--json")
        return [str(ran.json["status"]) for ran in (one, other)]

    assert statuses() == ["done", "done"]
    assert statuses() == ["skipped", "skipped"]
    write_json(Path("blip") / "more.json", {})
    assert statuses() == ["done", "skipped"]
    write_json(Path("t5") / "more.json", {})
    assert statuses() == ["skipped", "done"]
