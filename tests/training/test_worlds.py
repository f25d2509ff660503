"""The drawn worlds that the built-in model learns: seeds keep their meaning, the wider one adds to the present."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter

pytest.importorskip("training", reason="a source distribution has no training")

from training import places, scenes, sprites
from training.export import world
from training.scenes import OBJECTS, PRESENT, WIDER, Scene, World, edited, scene, with_article
from training.settings import UnetTraining
from training.unet import UnetTrainer
from training.words import CAPACITY, MAX_LENGTH, TOKEN, captions_of, trained_words

PAINT, LEAF, TYRE = (220, 30, 50), (60, 170, 70), (30, 30, 34)
SEEDS = {
    0: ("a photo of a balloon in the desert", [(8, 85, 155, 232)]),
    2: ("a bowl of fruits", [(52, 57, 227, 140)]),
    4: ("a ball and a hat on the beach", [(122, 64, 223, 165), (37, 76, 115, 154)]),
    8: ("on the beach", []),
    10_000_000: ("a tulip in the snow", [(27, 39, 177, 189)]),
    12_000_005: ("a house", [(19, 12, 170, 163)]),
}


def disc(code: str, colour: str = "") -> Image.Image:
    """In place of each sprite."""
    image = Image.new("RGBA", (60, 60))
    fill = PAINT if colour else (sum(code.encode()) % 200,) * 3
    ImageDraw.Draw(image).ellipse((2, 2, 57, 57), fill=(*fill, 255))
    return sprites.painted(image, (340, 10), colour) if colour else image


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (places, scenes):
        monkeypatch.setattr(module, "sprite", disc)


def boxes(drawn: Scene) -> list[tuple[int, int, int, int] | None]:
    return [mask.getbbox() for mask in drawn.masks.values()]


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_of_the_present_world_keep_their_meaning(seed: int) -> None:
    """Shards, benchmarks and samples hold what these seeds were."""
    drawn = scene(seed)
    assert (drawn.caption, boxes(drawn)) == SEEDS[seed]


@pytest.mark.thorough
@pytest.mark.parametrize("drawn_from", [PRESENT, WIDER], ids=["present", "wider"])
def test_an_edited_scene_differs_by_one_thing_more_or_less_its_colour_or_the_place(drawn_from: World) -> None:
    kinds = set()
    for seed in range(drawn_from.held_out, drawn_from.held_out + 120):
        before, after = scene(seed, world=drawn_from), edited(seed, drawn_from)
        assert boxes(edited(seed, drawn_from)) == boxes(after)
        gone, come = set(before.objects) - set(after.objects), set(after.objects) - set(before.objects)
        if len(gone) != len(come):
            kinds.add("one more" if come else "one less")
            assert len(gone | come) == 1
            assert before.place == after.place
            assert after.kind == ("empty", "one", "two")[len(after.objects)]
            stays = set(before.objects) & set(after.objects)
            assert all(before.masks[name] == after.masks[name] for name in stays)
            assert set(after.masks) == set(after.objects)
            continue
        assert before.kind == after.kind
        if before.place != after.place:
            kinds.add("place")
            assert not gone | come
            assert drawn_from.steady or not before.objects
            assert boxes(before) == boxes(after)
            continue
        assert (len(gone), len(come)) == (1, 1)
        old, new = (name.rpartition(" ")[2] for name in (*gone, *come))
        kinds.add("colour" if old == new else "thing")
    colours = {"colour"} if drawn_from.colours else set()
    assert kinds == {"thing", "place", "one more", "one less"} | colours


def comes(before: Scene) -> str:
    """What is not there yet."""
    return "ball" if any("hat" in name for name in before.objects) else "hat"


@pytest.mark.parametrize("drawn_from", [PRESENT, WIDER], ids=["present", "wider"])
def test_one_more_or_less_leaves_the_rest_of_the_picture_as_it_is(drawn_from: World) -> None:
    for seed in range(drawn_from.held_out, drawn_from.held_out + 40):
        before = scene(seed, world=drawn_from)
        if before.kind == "bowl":
            continue
        for after in (
            *(scene(seed, world=drawn_from, removed=name) for name in before.objects),
            *(scene(seed, world=drawn_from, added=name) for name in (comes(before),) if len(before.objects) < 2),
        ):
            (name,) = set(before.objects) ^ set(after.objects)
            mask = before.masks.get(name) or after.masks[name]
            changed = ImageChops.difference(before.picture, after.picture)
            assert changed.getbbox()
            changed.paste(0, (0, 0), mask.filter(ImageFilter.MaxFilter(13)))
            box = changed.getbbox()  # its shadow lies on the ground at its feet
            left, _, right, bottom = mask.getbbox() or (0, 0, 0, 0)
            assert not box or (box[0] >= left - 40 and box[2] <= right + 40 and box[1] >= bottom - 40)


def test_what_comes_beside_something_stands_on_the_wider_side_of_it() -> None:
    for seed in range(60):
        before = scene(seed)
        if before.kind != "one":
            continue
        after = scene(seed, added=comes(before))
        there, new = (after.masks[name].getbbox() for name in (*before.objects, comes(before)))
        assert there
        assert new
        is_left = there[0] >= scenes.CANVAS - there[2]
        assert (sum(new[::2]) < sum(there[::2])) == is_left


def test_what_comes_by_an_edit_has_the_room_of_what_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sprites of other shapes: wide, high, square."""
    sizes = ((60, 30), (30, 60), (60, 60))
    for module in (places, scenes):
        monkeypatch.setattr(
            module, "sprite", lambda code, _="": Image.new("RGBA", sizes[sum(code.encode()) % 3], PAINT)
        )
    fitted = 0
    for seed in range(60):
        before, after = scene(seed), edited(seed)
        replaced = before.kind in ("one", "two") and len(before.objects) == len(after.objects)
        for new in set(after.objects) - set(before.objects) if replaced else ():
            (old,) = set(before.objects) - set(after.objects)
            new_box, old_box = after.masks[new].getbbox(), before.masks[old].getbbox()
            wider, higher = (new_box[i + 2] - new_box[i] - old_box[i + 2] + old_box[i] for i in (0, 1))
            assert new_box[3] == old_box[3], "on the same ground"
            assert wider <= 0 >= higher
            assert max(wider, higher) >= -2, "as large as it can be"
            fitted += 1
    assert fitted > 20


def test_the_wider_world_has_all_of_the_present_one() -> None:
    assert list(WIDER.objects)[: len(OBJECTS)] == list(OBJECTS)
    assert all(WIDER.objects[name] == code for name, code in OBJECTS.items())
    assert WIDER.places[: len(PRESENT.places)] == PRESENT.places
    assert PRESENT.first < PRESENT.held_out < WIDER.first < WIDER.held_out


def test_every_colour_has_a_sprite_to_paint() -> None:
    assert {*WIDER.objects.values(), *scenes.PAINTED_AS.values()} >= sprites.PAINT.keys()
    for name, colours in WIDER.colours.items():
        assert scenes.PAINTED_AS.get(name, WIDER.objects[name]) in sprites.PAINT
        assert colours
        assert set(colours) <= sprites.COLOURS.keys()


@pytest.mark.parametrize("seed", range(WIDER.held_out, WIDER.held_out + 12))
def test_another_place_leaves_the_objects_of_the_wider_world_where_they_are(seed: int) -> None:
    drawn = scene(seed, world=WIDER)
    for place in WIDER.places:
        moved = scene(seed, place=place, world=WIDER)
        assert (moved.kind, moved.objects, moved.masks) == (drawn.kind, drawn.objects, drawn.masks)
        assert (moved.picture == drawn.picture) == (place == drawn.place)


def test_another_colour_leaves_the_rest_of_the_picture_as_it_is() -> None:
    red = scene(7, kind="one", objects=["red car"], world=WIDER)
    blue = scene(7, kind="one", objects=["red car"], swap={"red car": "blue car"}, world=WIDER)
    assert blue.objects == ("blue car",)
    assert red.masks["red car"] == blue.masks["blue car"]
    near = red.masks["red car"].filter(ImageFilter.MaxFilter(13))  # with the rim, too faint for the mask
    changed = ImageChops.difference(red.picture, blue.picture)
    assert changed.getbbox()
    changed.paste(0, (0, 0), near)
    assert not changed.getbbox()


@pytest.mark.parametrize("colour", sprites.COLOURS)
def test_paint_takes_the_colour_and_leaves_and_tyres_keep_theirs(colour: str) -> None:
    bands = (PAINT, LEAF, TYRE, (200, 190, 192))
    image = Image.fromarray(np.repeat(np.array([bands], dtype="uint8"), 20, axis=0))
    image.putalpha(200)
    made = sprites.painted(image, (340, 10), colour)
    hue, saturation, value = np.asarray(made.convert("RGB").convert("HSV"), dtype=float)[0, 0] / 255
    wanted = sprites.COLOURS[colour]
    assert abs((hue * 360 - wanted[0] + 180) % 360 - 180) < 3
    assert (saturation, value) == pytest.approx(wanted[1:], abs=0.02)
    assert [tuple(pixel) for pixel in np.asarray(made)[0, 1:, :3]] == list(bands[1:])
    assert made.getchannel("A") == image.getchannel("A")


def test_a_picture_without_paint_stays_as_it_is() -> None:
    image = Image.new("RGBA", (8, 8), (*LEAF, 255))
    assert sprites.painted(image, (340, 10), "blue") == image


def test_every_caption_of_the_wider_world_is_of_reserved_words_and_short_enough() -> None:
    shown = chain.from_iterable(
        [("empty", ()), ("one", (name,)), ("two", (name, "yellow umbrella"))] for name in WIDER.names
    )
    captions = {caption for kind, names in shown for _, caption in captions_of(kind, names, "moon")}
    assert all(word in TOKEN for caption in captions for word in caption.split())
    alone = {caption for _, caption in captions_of("empty", (), "moon")}
    assert alone < captions
    assert alone.isdisjoint(caption for _, caption in captions_of("one", ("cat",), "moon"))
    assert max(len(caption.split()) for caption in captions) <= MAX_LENGTH - 2
    assert all(word in TOKEN for place in WIDER.places for word in places.PLACES[place].phrase.split())
    assert max(TOKEN.values()) < CAPACITY


def test_a_coloured_thing_is_now_and_then_just_a_thing() -> None:
    captions = captions_of("two", ("red balloon", "owl"), "sea")
    assert sum(share for share, _ in captions) == pytest.approx(1, abs=0.02)
    shares = {caption: share for share, caption in captions}
    assert shares["a red balloon and an owl under the sea"] > shares["a balloon and an owl under the sea"] > 0


def test_articles() -> None:
    names = ("umbrella", "owl", "orange car", "red apple", "grapes")
    assert [with_article(name) for name in names] == ["an umbrella", "an owl", "an orange car", "a red apple", "grapes"]


def test_a_model_claims_the_wider_world_only_where_it_was_shown_it() -> None:
    before, after = world(100, 0), world(100, 50)
    assert before["words"] == trained_words(PRESENT)
    assert "colours" not in before
    assert after["words"] == trained_words(WIDER)
    assert set(before["words"]) < set(after["words"])
    assert {"fox", "purple", "under"} <= set(after["words"])
    assert (before["objects"], after["objects"]) == (list(OBJECTS), list(WIDER.objects))


def test_a_checkpoint_of_the_present_world_goes_on_with_both(tmp_path: Path) -> None:
    contents = [("one", ("cat",), "grass")] * 4
    for name in ("pairs-0000.pt", "wider-pairs-0000.pt"):
        torch.save((torch.zeros(4, 4, 32, 32).half(), contents), tmp_path / name)
    small = {"channels": (8, 8, 8), "text_width": 8, "text_layers": 1, "batch": 4}
    vae = SimpleNamespace(config=SimpleNamespace(latent_channels=4))
    trainer = UnetTrainer(tmp_path, vae, tmp_path, UnetTraining(**small, wider_share=0))
    trainer.train_step()
    trainer.save(trainer.checkpoint)
    saved = torch.load(trainer.checkpoint, weights_only=False)
    assert saved.pop("wider_pictures") == 0
    del saved["settings"]["wider_share"]  # as they were written before there was a wider world
    torch.save(saved, trainer.checkpoint)

    trainer = UnetTrainer(tmp_path, vae, tmp_path, UnetTraining(batch=4))
    assert (trainer.pictures, trainer.wider_pictures) == (4, 0)
    trainer.train_step()
    assert (trainer.pictures, trainer.wider_pictures) == (8, 2)
