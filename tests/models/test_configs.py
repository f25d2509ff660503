"""What the JSON files of a model say is checked before anything is built from it, and never ends in a bug."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command import FAST, WORDS, diffedit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import BUILTIN, write_json, write_model, write_safety, write_sd3, write_sdxl

from diffedit_cli.engine.networks import families
from diffedit_cli.errors import ModelError
from diffedit_cli.models import configs, registry, weights

AT_ONCE = 1.0  # seconds of the processor
HANGS = 10.0
IDS = ("vocab.json", "added_tokens.json", "tokenizer.json")
FREE = {"name_or_path", "_name_or_path", "special_tokens_map_file", "is_local", "local_files_only", "skip_prk_steps"}
FREE |= {"processor_class", "extra_special_tokens"}
FREE |= {"pictures", "wider_pictures", "objects", "colours", "places", "bowls"}  # of a world, which tests read
"""Settings that nothing is built from."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    found = {"sd": write_model(folder / "sd"), "v": write_model(folder / "v", v_prediction=True)}
    found |= {"xl": write_sdxl(folder / "xl"), "sd3": write_sd3(folder / "sd3")}
    write_safety(found["sd"], 1.0)
    shutil.copytree(BUILTIN, folder / "builtin")
    return found | {"builtin": folder / "builtin"}


def settings_of(said: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each setting by its keys, also those of objects in objects."""
    for key, value in said.items():
        yield (key,), value
        if isinstance(value, dict) and key.endswith("_config"):
            yield from (((key, *rest), inner) for rest, inner in settings_of(value))


def all_settings(shelf: dict[str, Path]) -> Iterator[tuple[Path, tuple[str, ...], Any]]:
    for folder in shelf.values():
        for path in sorted(folder.rglob("*.json")):
            if path.name not in IDS:
                yield from ((path, keys, value) for keys, value in settings_of(json.loads(path.read_text())))


def changed(path: Path, keys: tuple[str, ...], value: Any) -> str:
    """What was there."""
    before = path.read_text()
    said = inner = json.loads(before)
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(said))
    return before


def folder_of(path: Path, shelf: dict[str, Path]) -> Path:
    return next(folder for folder in shelf.values() if path.is_relative_to(folder))


def refused(folder: Path) -> str:
    """What is said against a model before it is loaded; nothing where it is taken."""
    try:
        registry.find(str(folder))
    except ModelError as error:
        return str(error)
    return ""


def wrong(key: str, value: Any) -> list[Any]:
    """What no setting like this can be."""
    kind = configs._KINDS.get(key)
    nothing = [[]] if kind and (kind.only or not kind.several) else []
    none_of_all: list[Any] = [*nothing, {"a": 1}, [[[[1]]]], [1] * 10**5]
    if key in ("crop_size", "size"):
        return ["word", 10**9, {"height": 10**9, "width": 1}, [1] * 10**5]
    if key in ("text_config", "vision_config"):
        return ["word", 1, [1]]
    if key.endswith("_token"):
        return [*none_of_all, 5, True]
    if isinstance(value, bool):
        return [*none_of_all, "yes", 10**9, 1.5]
    if isinstance(value, int | float):
        return [*none_of_all, "word", 10**9, -(10**9), 10**400, math.nan, math.inf, True]
    if isinstance(value, str):
        return [*none_of_all, 10**9, 1.5, True, "a" * 10**6]
    if isinstance(value, list):
        one: list[Any] = ["word"] if key != "architectures" else []
        one += [1.5] if key not in ("image_mean", "image_std") else []
        return [*one, *nothing, 10**9, True, {"a": 1}, [{"a": 1}], [10**9]]
    return [{"a": 1}]  # null may be of any type


def test_every_setting_that_models_have_is_known(shelf: dict[str, Path]) -> None:
    known = {*configs._KINDS, *configs._OWN, *FREE}
    parts = {"vae", "unet", "transformer", "scheduler", "safety_checker", "feature_extractor", "image_encoder"}
    parts |= {f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")}
    assert {keys[-1] for _, keys, _ in all_settings(shelf)} - known - parts == set()


UNBOUNDED = ("limit", "evidence", "evidence-of-looks", "unexplained")
"""Any number may stand there: nothing is built from it."""


@pytest.mark.thorough
def test_wrong_types_and_absurd_numbers_are_named_at_once(shelf: dict[str, Path]) -> None:
    tried = 0
    for path, keys, value in [*all_settings(shelf)]:
        if keys[-1] in FREE or (value is None and keys[-1] not in configs._KINDS):
            continue
        for other in wrong(keys[-1], value):
            if keys[-1] in UNBOUNDED and type(other) in (int, float):
                continue
            before = changed(path, keys, other)
            started = time.process_time()
            said = refused(folder_of(path, shelf))
            took = time.process_time() - started
            path.write_text(before)
            assert str(path.parent) in said, f"{path.name} {keys} {str(other)[:50]}"
            assert took < AT_ONCE
            assert len(said) < 500 + 3 * len(str(path))
            tried += 1
    assert tried > 1000


@pytest.mark.parametrize("number", [10**9, 10**400, -(10**9)])
def test_numbers_of_tokens_are_checked(copy: Path, number: int) -> None:
    for path in [path for path in copy.glob("tokenizer/*.json") if path.name in IDS]:
        before = path.read_text()
        said = json.loads(before)
        path.write_text(json.dumps(said | {"padding": {"strategy": {"Fixed": number}}}))
        with pytest.raises(ModelError, match=path.name):
            registry.find(str(copy))
        path.write_text(before)


def test_more_layers_than_weights_are_named_at_once(shelf: dict[str, Path]) -> None:
    more: dict[str, tuple[str, Any]] = {
        "unet": ("layers_per_block", 200),
        "vae": ("layers_per_block", 200),
        "text_encoder": ("num_hidden_layers", 250),
    }
    for part, (key, value) in more.items():
        path = shelf["sd"] / part / "config.json"
        before = changed(path, (key,), value)
        with pytest.raises(ModelError, match="layers"):
            registry.find(str(shelf["sd"]))
        path.write_text(before)


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "unet", "scheduler"])
def test_small_files_are_small_files(copy: Path, part: str) -> None:
    """Libraries read them whole, and a digest all of them."""
    path = copy / part / "README.txt"
    with path.open("wb") as sparse:
        sparse.truncate(weights.MOST_SETTINGS)
    assert f"settings and vocabularies up to {copy / part}" in refused(copy)
    path.unlink()
    os.mkfifo(path)
    assert f"{path} is not a file" in refused(copy)


@pytest.mark.parametrize("part", ["text_encoder", "unet", "safety_checker"])
def test_an_adapter_in_a_part_is_refused(copy: Path, part: str) -> None:
    """Libraries would apply it unasked, of any rank, and it would not count in the digest."""
    write_safety(copy, 1.0)
    write_json(copy / part / "adapter_config.json", {"peft_type": "LORA", "r": 300_000})
    assert f"has an adapter in {copy / part}" in refused(copy)


@pytest.mark.parametrize(
    "said", [{"pos_embed_max_size": 512, "attention_head_dim": 512}, {"num_attention_heads": 4096}]
)
def test_places_that_are_computed_are_in_the_weights(tiny_sd3: Path, tmp_path: Path, said: dict[str, int]) -> None:
    folder = Path(shutil.copytree(tiny_sd3, tmp_path / "sd3"))
    path = folder / "transformer" / "config.json"
    settings = json.loads(path.read_text())
    if "pos_embed_max_size" not in said:
        del settings["pos_embed_max_size"]  # 96
    write_json(path, settings | said)
    assert "pos_embed_max_size takes" in refused(folder)


@pytest.mark.parametrize("count", [configs.ADDED, configs.ADDED + 1])
def test_few_tokens_are_added_to_a_vocabulary(copy: Path, count: int) -> None:
    """Tokenizers look for each in every prompt: 700,000 took 86 s and 1.9 GB."""
    path, added = copy / "tokenizer" / "added_tokens.json", {f"t{number}": number for number in range(count)}
    files: dict[str, object] = {
        "added_tokens.json": added,
        "tokenizer.json": {"added_tokens": [{"id": 1, "content": token} for token in added]},
        "tokenizer_config.json": {"extra_special_tokens": added},
        "special_tokens_map.json": {"additional_special_tokens": [*added]},
    }
    for name, said in files.items():
        path = copy / "tokenizer" / name
        before = path.read_text() if path.is_file() else None
        write_json(path, said)
        assert (str(path) in refused(copy)) == (count > configs.ADDED)
        path.unlink() if before is None else path.write_text(before)


def test_settings_of_a_million_lists_are_not_read(copy: Path) -> None:
    path = copy / "tokenizer" / "added_tokens.json"
    path.write_text('{"a": [' + "[]," * weights.MOST_LISTS + "[]]}")
    assert f"has no readable {path}" in refused(copy)


def test_a_tokenizer_that_states_no_limit_has_the_encoders(copy: Path) -> None:
    path = copy / "tokenizer" / "tokenizer_config.json"
    changed(path, ("model_max_length",), int(1e30))
    assert used(copy) is None
    said = json.loads(path.read_text())
    del said["model_max_length"]
    write_json(path, said)
    assert used(copy) is None


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "words", [("models", "show", "copy"), ("edit", "cat.png", *WORDS, *FAST, "--model", "copy", "-o", "out.png")]
)
def test_commands_say_which_setting(copy: Path, words: tuple[str, ...]) -> None:
    changed(copy / "tokenizer" / "tokenizer_config.json", ("model_max_length",), 10**9)
    ran = diffedit(*words)
    assert ran.code == 4
    assert "model_max_length is 1000000000, and must be a length up to 65536" in ran.err


def used(folder: Path) -> str | None:
    """What is said against a model when it is loaded and does all that an edit asks of it; None for nothing."""
    try:
        found = registry.find(str(folder))
        assert found.native_size
        assert found.prediction_type
        model = families.load(folder, "cpu", torch.float32, str(folder), found.variant)
        levels = model.levels(4)
        size = model.native_size
        with torch.inference_mode():
            text = model.embed("a cat")
            model.prompt_warning("a cat")
            x_0 = model.encode(torch.zeros(1, 3, 64, 64) if size <= 64 else torch.zeros(1, 3, size, size))
            model.predict(x_0, levels[1], text)
            model.decode(x_0)
    except ModelError as error:
        return str(error)
    return None


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.integers()
    | st.floats()
    | st.sampled_from([2**31, 2**63, 10**400, "leading", "epsilon", "silu", "DownBlock2D", "float16", ""])
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def fuzzed(shelf: dict[str, Path], examples: int) -> Callable[[], None]:
    found = [one for one in all_settings(shelf) if not one[0].is_relative_to(shelf["builtin"])]

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(st.tuples(st.sampled_from(found), JSON), min_size=1, max_size=2))
    def told(changes: list[tuple[tuple[Path, tuple[str, ...], Any], Any]]) -> None:
        folder = folder_of(changes[0][0][0], shelf)
        before = {}
        for (path, keys, _), value in changes:
            before.setdefault(path, path.read_text())
            changed(path, keys, value)
        started = time.monotonic()
        try:
            used(folder)
        finally:
            for path, text in before.items():
                path.write_text(text)
        assert time.monotonic() - started < HANGS

    return told


@pytest.mark.thorough
def test_any_settings_are_used_or_named(shelf: dict[str, Path]) -> None:
    fuzzed(shelf, 100)()


@pytest.mark.slow
def test_two_thousand_settings_are_used_or_named(shelf: dict[str, Path]) -> None:
    fuzzed(shelf, 2000)()
