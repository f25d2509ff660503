"""Embeddings in place of words: written as used, taken back bit for bit, and what is made of files from elsewhere."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import pytest
import torch
from command import WORDS, diffedit
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import TEXT_WIDTH

from diffedit_cli.cli.repeat_command import options_of
from diffedit_cli.engine.interfaces import Embedding
from diffedit_cli.engine.networks import families
from diffedit_cli.errors import InputError, UsageError
from diffedit_cli.models import registry
from diffedit_cli.pipeline import cache_keys, embedding_files
from diffedit_cli.pipeline.edit_plan import plan_of
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.prompts import Embeds

FROM, TO = ("--from-embeds", "e/from.safetensors"), ("--to-embeds", "e/to.safetensors")


@pytest.fixture(autouse=True)
def noise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files leave no words to look for, so that words and files give the same mask only without looking."""
    monkeypatch.setenv("DIFFEDIT_MASK_METHOD", "noise")


def wrote(*words: object) -> bytes:
    """What a command sends to standard output in place of a file."""
    ran = diffedit(*words, "--no-metadata", "-o", "-") if words[0] == "edit" else diffedit(*words, "-o", "-")
    assert ran.code == 0, ran.err
    return ran.out


def tensors(path: Path | str) -> dict[str, torch.Tensor]:
    return load_file(Path(path))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("family", ["tiny_epsilon", "tiny_sdxl", "tiny_sd3"])
def test_what_was_saved_gives_the_same_picture(family: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(family)
    words = ("edit", "cat.png", "--model", folder, "--threshold", 0.1)
    with_words = wrote(*words, *WORDS, "--save-embeds", "e")
    assert sorted(path.name for path in Path("e").iterdir()) == [
        "caption.safetensors", "from.safetensors", "negative.safetensors", "to.safetensors",
    ]  # fmt: skip
    assert wrote(*words, *FROM, *TO, "--no-cache") == with_words
    exactly = ("--caption-embeds", "e/caption.safetensors", "--negative-embeds", "e/negative.safetensors")
    assert wrote(*words, *FROM, *TO, *exactly) == with_words
    assert wrote(*words, *FROM, "--to-embeds", "e/from.safetensors", "--mask", "cat.png") != with_words
    model = families.load(folder, "cpu", torch.float32)
    expected = model.embed("dog")
    assert torch.equal(tensors("e/to.safetensors")["tokens"], expected.tokens)
    if expected.pooled is not None:
        assert torch.equal(tensors("e/to.safetensors")["pooled"], expected.pooled)


@pytest.mark.usefixtures("here")
def test_every_negative_can_be_a_file() -> None:
    negatives = ("--from-negative", "grass", "--to-negative", "a cat", "--negative", "a dog", "--caption", "a cat")
    with_words = wrote("edit", "cat.png", *WORDS, *negatives, "--save-embeds", "e")
    names = ("from", "to", "from-negative", "to-negative", "negative", "caption")
    assert {path.stem for path in Path("e").iterdir()} == set(names)
    with_files = [word for name in names for word in (f"--{name}-embeds", f"e/{name}.safetensors")]
    assert wrote("edit", "cat.png", *with_files, "--no-cache") == with_words
    assert wrote("edit", "cat.png", *FROM, *TO) != with_words


@pytest.mark.usefixtures("here")
def test_only_what_a_command_uses_is_saved() -> None:
    wrote("mask", "cat.png", *WORDS, "--save-embeds", "m")
    wrote("invert", "cat.png", "--caption", "cat", "--save-embeds", "i")
    diffedit("mask", "cat.png", *WORDS)
    wrote("edit", "cat.png", "--mask", "cat.mask.png", "--to", "dog", "--save-embeds", "x")
    found = {name: sorted(path.stem for path in Path(name).iterdir()) for name in "mix"}
    assert found == {"m": ["from", "to"], "i": ["caption"], "x": ["caption", "negative", "to"]}
    assert (tensors("m/from.safetensors")["tokens"] == tensors("i/caption.safetensors")["tokens"]).all()


@pytest.mark.usefixtures("here")
def test_each_stage_is_the_same_with_files() -> None:
    for words, with_files in (
        (("mask", "cat.png", *WORDS), ("mask", "cat.png", *FROM, *TO)),
        (("invert", "cat.png", "--caption", "cat"), ("invert", "cat.png", "--caption-embeds", "e/from.safetensors")),
    ):
        ending = "png" if words[0] == "mask" else "safetensors"
        assert diffedit(*words, "--save-embeds", "e", "-o", f"words.{ending}", "--force").code == 0
        assert diffedit(*with_files, "-o", f"files.{ending}", "--force", "--no-cache").code == 0
        if words[0] == "mask":
            assert diffedit("edit", "cat.png", *WORDS, "--mask", "files.png", "-o", "-").code == 0
        else:
            one, other = tensors("words.safetensors"), tensors("files.safetensors")
            assert all(torch.equal(one[name], other[name]) for name in ("trajectory", "timesteps"))


@pytest.mark.usefixtures("here")
def test_the_negative_that_nobody_gave_is_saved_as_it_is_used() -> None:
    words = ("edit", "cat.png", "--from", "a cat and a dog", "--to", "a grass and a dog")
    assert diffedit(*words, "--save-embeds", "e", "-o", "words.png").code == 0
    assert "prompt: a dog" in diffedit("info", "e/negative.safetensors").out.decode().splitlines()
    assert diffedit(*words, "--negative-embeds", "e/negative.safetensors", "-o", "files.png", "--no-cache").code == 0
    assert Image.open("words.png").tobytes() == Image.open("files.png").tobytes()


@pytest.mark.usefixtures("here")
def test_files_count_by_their_content_in_the_cache() -> None:
    wrote("mask", "cat.png", *WORDS, "--save-embeds", "e")
    first = diffedit("mask", "cat.png", *FROM, *TO, "--json", "--force")
    assert first.json["cache"] == {"mask": "miss"}
    Path("e").rename("renamed")
    renamed = ("--from-embeds", "renamed/from.safetensors", "--to-embeds", "renamed/to.safetensors")
    assert diffedit("mask", "cat.png", *renamed, "--json", "--force").json["cache"] == {"mask": "hit"}
    changed = tensors("renamed/to.safetensors")["tokens"] + 1
    save_file({"tokens": changed}, "renamed/to.safetensors")
    assert diffedit("mask", "cat.png", *renamed, "--json", "--force").json["cache"] == {"mask": "miss"}


@pytest.mark.usefixtures("here")
def test_info_repeats_an_edit_with_files() -> None:
    wrote("mask", "cat.png", *WORDS, "--save-embeds", "e")
    assert diffedit("edit", "cat.png", *FROM, *TO).code == 0
    said = diffedit("info", "cat.edited.png").out.decode()
    command = shlex.split(said.splitlines()[-1])
    assert command[3:7] == ["--from-embeds", "FROM.safetensors", "--to-embeds", "TO.safetensors"]
    assert not {"--from", "--to", "--caption", "--negative", "--caption-embeds", "--mask"} & set(command)
    digest = hashlib.sha256(Path("e/to.safetensors").read_bytes()).hexdigest()
    assert f"mask to-embeds: {digest}" in said
    replaced = {"PICTURE": "cat.png", "FROM.safetensors": FROM[1], "TO.safetensors": TO[1]}
    before = Path("cat.edited.png").read_bytes()
    assert diffedit(*[replaced.get(word, word) for word in command[1:]]).code == 0
    assert Path("cat.edited.png").read_bytes() == before


@pytest.mark.usefixtures("here")
def test_info_tells_what_embeddings_were_made_of(tiny_epsilon: Path) -> None:
    wrote("mask", "cat.png", *WORDS, "--save-embeds", "e")
    lines = diffedit("info", "e/to.safetensors").out.decode().splitlines()
    assert {"kind: embeds", "prompt: dog", f"model: {registry.find(str(tiny_epsilon)).digest}"} <= set(lines)


def test_the_command_names_what_is_in_place_of_what() -> None:
    file = Embeds("d", Path("x.safetensors"))
    invert = options_of(cache_keys.inversion(Params(caption=file, steps=5)))
    strength = ["--strength", "0.9"]
    assert invert == ["--steps", "5", "--caption-embeds", "CAPTION.safetensors", *strength]
    assert options_of(cache_keys.inversion(Params(from_=file))) == [
        "--steps",
        "16",
        "--caption-embeds",
        "CAPTION.safetensors",
        *strength,
    ]
    mask, edit = (plan_of(Params(from_=file, to=to, negative="grass"), {}).given for to in ("dog", file))
    edited = {"mask": cache_keys.mask(mask), "edit": cache_keys.edit(edit)}
    words = ["--mask", "MASK.png", "--from-embeds", "FROM.safetensors", "--to-embeds", "TO.safetensors"]
    own = {
        "--region": "object", "--mask-method": "noise", "--room": "0.4", "--paste-above": "50.0",
        "--mask-strength": "0.5", "--guidance": "7.5", "--negative": "grass", "--steps": "16", "--maps": "auto",
    }  # fmt: skip
    told = options_of(edited)
    assert told[: len(words)] == words
    rest = told[len(words) :]
    assert dict(zip(rest[::2], rest[1::2], strict=True)) == own


@pytest.mark.usefixtures("here")
def test_words_and_a_file_for_the_same_prompt_are_refused() -> None:
    wrote("mask", "cat.png", *WORDS, "--save-embeds", "e")
    ran = diffedit("edit", "cat.png", *WORDS, *FROM)
    assert ran.code == 2
    assert "--from and --from-embeds both" in ran.err


@pytest.mark.usefixtures("here")
def test_a_setting_can_name_the_file() -> None:
    with_words = wrote("edit", "cat.png", *WORDS, "--save-embeds", "e")
    Path("diffedit.toml").write_text('from-embeds = "e/from.safetensors"\n')
    assert wrote("edit", "cat.png", *TO) == with_words


@pytest.mark.usefixtures("here")
def test_files_of_others_are_not_overwritten_and_inputs_never() -> None:
    Path("e").mkdir()
    Path("e/from.safetensors").write_bytes(b"mine")
    ran = diffedit("mask", "cat.png", *WORDS, "--save-embeds", "e")
    assert ran.code == 6
    assert "from.safetensors exists, and nothing shows that diffedit made it" in ran.err
    assert not Path("cat.mask.png").exists()
    assert diffedit("mask", "cat.png", *WORDS, "--save-embeds", "e", "--force").code == 0
    assert diffedit("mask", "cat.png", *WORDS, "--save-embeds", "e").code == 0
    ran = diffedit("mask", "cat.png", *FROM, *TO, "--save-embeds", "e", "--force")
    assert ran.code == 6
    assert "from.safetensors is also an input" in ran.err


@pytest.mark.usefixtures("here")
def test_run_takes_and_saves_them() -> None:
    assert diffedit("run", "cat.png", *WORDS, "--out", "words", "--save-embeds", "e").code == 0
    assert diffedit("run", "cat.png", *FROM, *TO, "--out", "files", "--no-metadata").code == 0
    assert diffedit("run", "cat.png", *WORDS, "--out", "words", "--no-metadata").code == 0
    assert Path("words/cat.png").read_bytes() == Path("files/cat.png").read_bytes()


# files made elsewhere


def made(path: Path, **named: torch.Tensor) -> Embeds:
    save_file({name: tensor.contiguous() for name, tensor in named.items()}, path)
    return Embeds.at(path)


def read(file: Embeds, folder: Path) -> tuple[Embedding, str | None]:
    model = families.load(folder, "cpu", torch.float32)
    return embedding_files.load(file, model.embed(""), registry.find(str(folder)))


def test_one_tensor_of_any_name_will_do(tmp_path: Path, tiny_epsilon: Path) -> None:
    tokens = torch.randn(1, 77, TEXT_WIDTH)
    for named in ({"prompt_embeds": tokens}, {"x": tokens[0]}, {"tokens": tokens, "unused": tokens + 1}):
        embedding, warning = read(made(tmp_path / "e.safetensors", **named), tiny_epsilon)
        assert torch.equal(embedding.tokens, tokens)
        assert (embedding.pooled, warning) == (None, None)


def test_prompts_of_a_batch_are_averaged(tmp_path: Path, tiny_sdxl: Path) -> None:
    model = families.load(tiny_sdxl, "cpu", torch.float32)
    said = [model.embed(prompt) for prompt in ("a cat", "cat on grass", "a cat on a cat")]
    tokens = torch.cat([one.tokens for one in said])
    pooled = torch.cat([one.pooled for one in said if one.pooled is not None])
    names = {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}
    embedding, _ = read(made(tmp_path / "e.safetensors", **names), tiny_sdxl)
    assert torch.equal(embedding.tokens, tokens.mean(0, keepdim=True))
    assert embedding.pooled is not None
    assert torch.equal(embedding.pooled, pooled.mean(0, keepdim=True))


@pytest.mark.usefixtures("here")
def test_another_number_of_tokens_is_welcome() -> None:
    """As prompts longer than the encoder's have; the prompts of one evaluation may then differ in length."""
    generator = torch.Generator().manual_seed(0)
    made(Path("e.safetensors"), tokens=torch.randn((1, 154, TEXT_WIDTH), generator=generator))
    words = ("edit", "cat.png", "--from", "cat", "--to-embeds", "e.safetensors", "--threshold", 0.1)
    assert diffedit(*words, "--negative", "dog", "--json").json["evaluations"] == {"mask": 4, "invert": 2, "edit": 6}


@pytest.mark.usefixtures("here")
def test_another_models_embeddings_are_warned_of(tiny_v: Path) -> None:
    wrote("mask", "cat.png", *WORDS, "--model", tiny_v, "--save-embeds", "e")
    ran = diffedit("mask", "cat.png", *FROM, *TO, "--json")
    warned = [text for text in ran.json["warnings"] if text.startswith("The embeddings")]
    assert [f"e/{name}.safetensors were made with {tiny_v}" in text for name, text in zip(
        ("from", "to"), warned, strict=True)] == [True, True]  # fmt: skip


TOKENS = torch.zeros(1, 77, TEXT_WIDTH)
UNFIT = {
    "wide": ({"tokens": torch.zeros(1, 77, 5)}, f"do not fit the model .*: they are 5 wide and it reads {TEXT_WIDTH};"),
    "not finite": ({"tokens": TOKENS / 0}, "holds no values, or some that are not finite"),
    "two": ({"a": TOKENS, "b": TOKENS + 1}, "holds a, b, and it is not clear which is the prompt"),
    "pooled alone": ({"pooled": torch.zeros(1, 5)}, "holds pooled, and it is not clear"),
    "shape": ({"tokens": torch.zeros(5)}, "holds other shapes than tokens"),
    "numbers": ({"tokens": TOKENS.int()}, "holds I32 in tokens"),
    "no prompt": ({"tokens": TOKENS[:0]}, "holds no values, or"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_named(case: str, tmp_path: Path, tiny_epsilon: Path) -> None:
    named, says = UNFIT[case]
    with pytest.raises(InputError, match=says):
        read(made(tmp_path / "e.safetensors", **named), tiny_epsilon)


def test_pooled_is_asked_for_where_the_family_has_it(tmp_path: Path, tiny_sdxl: Path) -> None:
    tokens = families.load(tiny_sdxl, "cpu", torch.float32).embed("").tokens
    with pytest.raises(InputError, match="they lack the tensor pooled"):
        read(made(tmp_path / "e.safetensors", tokens=tokens), tiny_sdxl)
    with pytest.raises(InputError, match="they are, in the tensor pooled, 5 wide"):
        read(made(tmp_path / "e.safetensors", tokens=tokens, pooled=torch.zeros(1, 5)), tiny_sdxl)


def test_a_file_that_changes_in_between_is_noticed(tmp_path: Path, tiny_epsilon: Path) -> None:
    file = made(tmp_path / "e.safetensors", tokens=TOKENS)
    made(tmp_path / "e.safetensors", tokens=TOKENS + 1)
    with pytest.raises(InputError, match="was changed while"):
        read(file, tiny_epsilon)


@pytest.mark.usefixtures("here")
def test_a_damaged_file_of_ours_is_noticed() -> None:
    wrote("mask", "cat.png", *WORDS, "--save-embeds", "e")
    data = bytearray(Path("e/to.safetensors").read_bytes())
    data[-1] ^= 1
    Path("e/to.safetensors").write_bytes(data)
    ran = diffedit("mask", "cat.png", *FROM, *TO)
    assert ran.code == 3
    assert "e/to.safetensors cannot be used: its contents do not match" in ran.err


def test_the_files_metadata_is_for_others_to_read(here: Path, tiny_epsilon: Path) -> None:
    wrote("mask", "cat.png", *WORDS, "--save-embeds", "e")
    with safe_open(here / "e" / "from.safetensors", framework="pt") as file:
        assert file.get_tensor("tokens").dtype == torch.float32
        assert registry.find(str(tiny_epsilon)).digest in file.metadata()["diffedit"]


def test_words_and_files_are_not_mixed_up(tmp_path: Path) -> None:
    file = made(tmp_path / "e.safetensors", tokens=TOKENS)
    assert Params(from_=file).inversion_caption == file
    assert cache_keys.contrast(Params(from_=file, to="dog")) | {"from": "x"} != cache_keys.contrast(Params(from_="x"))
    assert Params(from_negative=file, to_negative=file).guided_mask is False
    with pytest.raises(UsageError):
        Params(from_=file, steps=0)
