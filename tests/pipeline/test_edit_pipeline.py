"""Each stage is computed once, kept, verified and used again; and the same request always gives the same bytes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import FAST, WORDS, Ran, diffedit, picture, problems
from PIL import Image
from tiny import overflowing

from diffedit_cli.engine import diffedit as engine
from diffedit_cli.errors import DeviceError, ModelError, UsageError
from diffedit_cli.images import codecs
from diffedit_cli.images.masks import Mask
from diffedit_cli.models import registry
from diffedit_cli.models.devices import choose_device
from diffedit_cli.pipeline import cache_keys
from diffedit_cli.pipeline.edit_pipeline import EditPipeline, with_cache
from diffedit_cli.pipeline.model_session import generator
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.stage_cache import cache_key
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.cache import Cache

PARAMS = Params(from_="cat", to="dog", steps=5, maps=2, threshold=0.3)
NOTHING_SPENT = {"mask": 0, "invert": 0, "edit": 0}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return picture(tmp_path / "scene.png")


@pytest.fixture(scope="module")
def loaded(tiny_epsilon: Path) -> EditPipeline:
    """A tiny model, loaded once."""
    return EditPipeline(registry.find(str(tiny_epsilon)), None, device="cpu")


@pytest.fixture
def pipeline(loaded: EditPipeline, tmp_path: Path) -> EditPipeline:
    """With an empty cache."""
    return with_cache(loaded, Cache(tmp_path / "cache"))


def edit(pipeline: EditPipeline, path: Path, params: Params = PARAMS, **changes: object) -> EditStats:
    """What one edit cost."""
    stats = EditStats()
    pipeline.edit(codecs.load(path), dataclasses.replace(params, **changes), stats, None, None)
    return stats


# the cost


def test_evaluations_at_the_defaults(pipeline: EditPipeline, image: Path) -> None:
    """The mask by ten maps for two prompts; 14 of 16 levels, each second asked; 14 steps, 5 of them asked twice."""
    stats = edit(pipeline, image, Params(from_="cat", to="dog", threshold=0.2, maps=10))
    assert stats.evaluations == {"mask": 20, "invert": 7, "edit": 19}
    assert stats.cache == {"mask": "miss", "invert": "miss", "edit": "miss"}


def test_maps_of_a_settled_mask_cost_no_more(
    pipeline: EditPipeline, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By themselves the maps of random weights may never agree: here any two do, and then none."""
    params = Params(from_="cat", to="dog", steps=5, threshold=0.2)
    for agreement, maps in ((0.0, 2), (2.0, 10)):
        monkeypatch.setattr(engine, "AGREEMENT", agreement)
        assert edit(pipeline, image, params, seed=maps).evaluations["mask"] == 2 * maps


def test_the_same_edit_again_costs_nothing(pipeline: EditPipeline, image: Path) -> None:
    assert edit(pipeline, image).evaluations == {"mask": 4, "invert": 2, "edit": 6}
    again = edit(pipeline, image)
    assert again.evaluations == NOTHING_SPENT
    assert again.cache == {"mask": "hit", "invert": "hit", "edit": "hit"}


def test_another_threshold_with_the_same_mask_costs_nothing(pipeline: EditPipeline, image: Path) -> None:
    """A drawn mask makes the same cells of any threshold; a wider fade is laid over what was painted before."""
    drawn = np.zeros((40, 60), dtype=bool)
    drawn[8:24, 16:40] = True
    scene = codecs.load(image)
    results = []
    for threshold, feather in ((0.3, 0.25), (0.6, 0.25), (0.6, 1.0)):
        stats = EditStats()
        params = dataclasses.replace(PARAMS, threshold=threshold, feather=feather)
        (edited,) = pipeline.edit(scene, params, stats, Mask(drawn), None)
        results.append(np.asarray(edited.image))
        assert stats.evaluations["edit"] == (0 if len(results) > 1 else 6)
    assert np.array_equal(*results[:2])
    assert not np.array_equal(*results[1:])


def test_the_share_of_guided_steps_is_not_lost_in_last_bits(pipeline: EditPipeline, image: Path) -> None:
    """1 - 0.9 is a little less than a tenth."""
    assert edit(pipeline, image, steps=10, strength=1.0, guidance_end=0.9).evaluations["edit"] == 9 + 5 + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance": 5.0},
        {"guidance_end": 1.0},
        {"guidance_every": 1},
        {"negative": "grass"},
        {"eta": 1.0},
        {"eta": 1.0, "seed": 3},
        {"to": "grass"},
        {"steps": 6},
    ],
    ids=str,
)
def test_what_the_repainting_depends_on_repaints(
    pipeline: EditPipeline, image: Path, changes: dict[str, object]
) -> None:
    edit(pipeline, image)
    edit(pipeline, image, eta=1.0, seed=2)
    assert edit(pipeline, image, **changes).evaluations["edit"] > 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("changes", "mask", "invert"),
    [
        ({"threshold": 0.2}, 0, 0),
        ({"clamp": 2.0}, 0, 0),
        ({"guidance": 5.0}, 0, 0),
        ({"guidance_end": 1.0}, 0, 0),
        ({"guidance_every": 1}, 0, 0),
        ({"negative": "grass"}, 0, 0),
        ({"eta": 1.0}, 0, 0),
        ({"variants": 2}, 0, 0),
        ({"to": "grass"}, 2, 0),
        ({"maps": 3}, 6, 0),
        ({"mask_strength": 0.8}, 4, 0),
        ({"seed": 1}, 4, 0),
        ({"from_negative": "grass"}, 8, 0),
        ({"from_negative": "grass", "to_negative": "grass"}, 0, 0),
        ({"strength": 1.0}, 0, 3),
        ({"scheduler": "ddim"}, 0, 4),
        ({"invert_every": 1}, 0, 4),
        ({"invert_every": 2}, 0, 0),
        ({"invert_from": 0.0}, 0, 0),
        ({"invert_from": 0.1}, 0, 1),
        ({"reg_steps": 2}, 0, 2),
        ({"lambda_kl": 3.0, "lambda_auto_corr": 3.0, "auto_corr_rolls": 2}, 0, 0),
        ({"caption": "a cat"}, 0, 2),
        ({"invert_guidance": 2.0}, 0, 4),
        ({"from_": "grass"}, 4, 2),
        ({"steps": 6}, 4, 3),
    ],
    ids=str,
)
def test_another_option_recomputes_only_what_depends_on_it(
    pipeline: EditPipeline, image: Path, changes: dict[str, object], mask: int, invert: int
) -> None:
    edit(pipeline, image)
    spent = edit(pipeline, image, **{"threshold": 0.1} | changes).evaluations
    assert (spent["mask"], spent["invert"]) == (mask, invert)


def test_guidance_counts_for_the_mask_where_the_negatives_differ(pipeline: EditPipeline, image: Path) -> None:
    edit(pipeline, image, to_negative="grass")
    assert edit(pipeline, image, to_negative="grass").evaluations["mask"] == 0
    assert edit(pipeline, image, to_negative="grass", guidance=5.0).evaluations["mask"] == 8


@pytest.mark.parametrize(
    ("changes", "invert"),
    [
        ({"lambda_kl": 3.0}, 2),
        ({"lambda_auto_corr": 3.0}, 2),
        ({"auto_corr_rolls": 2}, 2),
        ({"seed": 1}, 2),
        ({"threshold": 0.2}, 0),
    ],
    ids=str,
)
def test_the_options_of_a_regularised_inversion_recompute_it(
    pipeline: EditPipeline, image: Path, changes: dict[str, object], invert: int
) -> None:
    edit(pipeline, image, reg_steps=1, threshold=0.1)
    assert edit(pipeline, image, **{"reg_steps": 1, "threshold": 0.1} | changes).evaluations["invert"] == invert


def test_another_picture_and_another_model_share_nothing(
    pipeline: EditPipeline, image: Path, tiny_v: Path, tmp_path: Path
) -> None:
    edit(pipeline, image)
    assert edit(pipeline, picture(tmp_path / "other.png", (40, 60))).evaluations["mask"] == 4
    other = EditPipeline(registry.find(str(tiny_v)), pipeline.cache, device="cpu")
    assert edit(other, image, threshold=0.1).evaluations["mask"] == 4


def test_the_same_picture_and_model_under_other_names_share(
    pipeline: EditPipeline, image: Path, tmp_path: Path
) -> None:
    edit(pipeline, image)
    Image.open(image).save(tmp_path / "renamed.bmp")
    shutil.copytree(pipeline.folder.path, tmp_path / "model")
    other = EditPipeline(registry.find(str(tmp_path / "model")), pipeline.cache, device="cpu")
    assert edit(other, tmp_path / "renamed.bmp").evaluations == NOTHING_SPENT


def test_cache_keys_are_what_they_were() -> None:
    """A key that changes by accident makes everyone's cache worthless; on purpose, raise kept.SCHEMA."""
    about = {"picture": "p", "size": [60, 40], "model": "m", "model-name": "anything", "dtype": "float32"}
    params = Params(from_="cat", to="dog", maps=10, steps=20)
    assert cache_key("contrast", about | cache_keys.contrast(params)) == CONTRAST_KEY
    assert cache_key("inversion", about | cache_keys.inversion(params)) == INVERSION_KEY


CONTRAST_KEY = "24a9c98c3e87b0ec3328d8419ab4283ced60195ff262d99405ad9811c6423fae"
INVERSION_KEY = "079864756ddc01bb93b9cf87cd9a9a25fe4db5a48eeeb9c7d5c89ae6be5fef74"


# a cache that fails


@pytest.mark.parametrize("kind", ["contrast", "inversion"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "another entry"])
def test_a_damaged_entry_is_said_and_made_again(pipeline: EditPipeline, image: Path, kind: str, damage: str) -> None:
    edit(pipeline, image)
    entry = next(Path(pipeline.cache.root).glob(f"{kind}/*/*"))
    other = next(path for path in Path(pipeline.cache.root).glob("*/*/*.safetensors") if path != entry)
    data = entry.read_bytes()
    entry.write_bytes(
        {
            "truncated": data[:-8],
            "flipped": data[:-1] + bytes([data[-1] ^ 1]),
            "empty": b"",
            "text": b"These are words.\n" * 100,
            "another entry": other.read_bytes(),
        }[damage]
    )
    stats = edit(pipeline, image)
    assert [warning for warning in stats.warnings if str(entry) in warning and "damaged" in warning]
    stage = "mask" if kind == "contrast" else "invert"
    assert stats.evaluations[stage] == 2
    assert entry.read_bytes() == data
    assert problems(edit(pipeline, image).warnings) == []


def test_a_cache_that_cannot_be_written_only_warns(pipeline: EditPipeline, image: Path) -> None:
    stats = edit(with_cache(pipeline, Cache(image / "cache")), image)
    assert "The result is not stored in the cache" in stats.warnings[0]
    assert str(image) in stats.warnings[0]
    assert stats.evaluations["edit"] == 6


def test_without_a_cache_nothing_is_read_or_written(image: Path, tmp_path: Path, tiny_epsilon: Path) -> None:
    words = ("edit", image, *WORDS, *FAST, "--model", tiny_epsilon, "--cache-dir", tmp_path / "cache", "--json")
    for extra, kept in ((["--no-cache"], 0), ([], 7), (["--no-cache"], 7)):
        ran = diffedit(*words, *extra)
        assert ran.json["evaluations"] == {"mask": 4, "invert": 2, "edit": 6}
        assert len(Cache(tmp_path / "cache").entries()) == kept


# the same bytes


def made(ran: Ran, path: Path) -> bytes:
    """The bytes of a file that a command wrote, which is taken away."""
    assert ran.code == 0, ran.err
    data = path.read_bytes()
    path.unlink()
    return data


def test_the_same_command_gives_the_same_bytes(image: Path, tiny_epsilon: Path) -> None:
    words = ("edit", image, *WORDS, *FAST, "--model", tiny_epsilon)
    output = image.with_name("scene.edited.png")
    first = made(diffedit(*words, "--no-cache"), output)
    assert made(diffedit(*words, "--no-cache"), output) == first
    assert made(diffedit(*words), output) == first
    assert made(diffedit(*words), output) == first  # from the cache
    assert made(diffedit(*words, "--seed", 1, "--threshold", 0.1), output) != first


def test_with_eta_the_seed_decides_the_result(image: Path, tiny_epsilon: Path, tiny_sd3: Path) -> None:
    mask, output = image.with_name("mask.png"), image.with_name("scene.edited.png")
    Image.new("L", Image.open(image).size, 255).save(mask)
    for model in (tiny_epsilon, tiny_sd3):
        words = ("edit", image, *WORDS, *FAST, "--mask", mask, "--model", model)
        drawn = ((0, 1), (1, 1), (1, 1), (1, 2))
        plain, *fresh = (made(diffedit(*words, "--eta", eta, "--seed", seed), output) for eta, seed in drawn)
        assert plain == made(diffedit(*words, "--seed", 2), output)
        assert fresh[0] == fresh[1]
        assert len({plain, *fresh}) == 3


def test_masks_and_latents_are_the_same_bytes_each_time(image: Path, tiny_epsilon: Path) -> None:
    mask, latents = image.with_name("scene.mask.png"), image.with_name("scene.latents.safetensors")
    for words, output in ((("mask", image, *WORDS, *FAST), mask), (("invert", image, "--steps", 5), latents)):
        results = {made(diffedit(*words, "--model", tiny_epsilon), output) for _ in range(4)}
        assert len(results) == 1


@pytest.mark.thorough
@pytest.mark.parametrize("extra", [[], ["--no-cache"]], ids=["cache", "no cache"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_stages_chained_by_files_give_the_bytes_of_one_edit(
    tmp_path: Path, tiny_epsilon: Path, extra: list[str], suffix: str
) -> None:
    picture(tmp_path / f"scene{suffix}")
    shared = (*extra, "--model", tiny_epsilon, "--steps", 5)
    mask_words = (*WORDS, "--maps", 2, "--threshold", 0.3)
    image, output = tmp_path / f"scene{suffix}", tmp_path / f"scene.edited{suffix}"
    whole = made(diffedit("edit", image, *mask_words, *shared), output)
    assert diffedit("mask", image, *mask_words, *shared).code == 0
    assert diffedit("invert", image, "--caption", "cat", *shared).code == 0
    stages = ("--mask", tmp_path / "scene.mask.png", "--latents", tmp_path / "scene.latents.safetensors")
    ran = diffedit("edit", image, *WORDS, *stages, *shared, "--no-cache", "--json")  # repaints all anew
    assert ran.json["evaluations"] == {"mask": 0, "invert": 0, "edit": 6}
    assert made(ran, output) == whole
    assert made(diffedit("edit", image, *WORDS, *stages[:2], *shared), output) == whole
    assert made(diffedit("edit", image, *mask_words, *stages[2:], *shared), output) == whole


def test_a_picture_of_a_batch_is_what_it_is_alone(tmp_path: Path, tiny_v: Path) -> None:
    sizes = {"a.png": (60, 40), "b.png": (40, 60), "c.png": (61, 40)}
    for name, size in sizes.items():
        picture(tmp_path / name, size)
    words = (*WORDS, *FAST, "--threshold", 0.1, "--model", tiny_v, "--no-cache")
    assert diffedit("run", *(tmp_path / name for name in sizes), *words, "--out", tmp_path / "out").code == 0
    for name in sizes:
        assert diffedit("edit", tmp_path / name, *words, "-o", tmp_path / "alone.png").code == 0
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone.png").read_bytes()


def test_noise_depends_on_seed_picture_and_purpose_only(image: Path, tmp_path: Path) -> None:
    one, same = codecs.load(image), codecs.load(image)
    other = codecs.load(picture(tmp_path / "other.png", (40, 60)))
    drawn = generator(0, one, "mask").initial_seed()
    assert generator(0, same, "mask").initial_seed() == drawn
    others = [generator(1, one, "mask"), generator(0, other, "mask"), generator(0, one, "edit")]
    assert len({drawn, *(other.initial_seed() for other in others)}) == 4


# half precision


def test_half_precision_that_overflows_is_repeated_in_float32(image: Path, tiny_epsilon: Path, tmp_path: Path) -> None:
    folder = registry.find(str(overflowing(tiny_epsilon, tmp_path / "loud", 1e5)))
    results = {}
    for dtype in ("float16", "float32"):
        stats = EditStats()
        pipeline = EditPipeline(folder, None, device="cpu", dtype=dtype)
        params = dataclasses.replace(PARAMS, room=0.0)  # what changes in more room are measured against stays half
        (results[dtype],) = pipeline.edit(codecs.load(image), params, stats, None, None)
        assert any("repeated in float32" in warning for warning in stats.warnings) == (dtype == "float16")
    assert results["float16"].record["dtype"] == "float16"
    assert (results["float16"].mask.pixels == results["float32"].mask.pixels).all()
    assert results["float16"].image.tobytes() == results["float32"].image.tobytes()


def test_half_precision_that_suffices_stays_half(image: Path, tiny_epsilon: Path) -> None:
    pipeline = EditPipeline(registry.find(str(tiny_epsilon)), None, device="cpu", dtype="float16")
    assert problems(edit(pipeline, image).warnings) == []
    assert pipeline.session.model(EditStats()).dtype_name == "float16"


def test_a_model_of_infinities_is_blamed(image: Path, tiny_epsilon: Path, tmp_path: Path) -> None:
    folder = registry.find(str(overflowing(tiny_epsilon, tmp_path / "broken", float("inf"))))
    with pytest.raises(ModelError, match="not finite"):
        edit(EditPipeline(folder, None, device="cpu"), image)


# the device


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    with pytest.raises(DeviceError, match="cuda:99 is not available here; use --device"):
        choose_device("cuda:99")
    with pytest.raises(UsageError, match="The device 'abacus' is unknown; use auto"):
        choose_device("abacus")
