"""What the kind of an edit decides: the values of what is not given, and what is compared, painted and steered from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from edits_of_each_kind import GRASS, PROMPTS

from diffedit_cli.errors import ModelError, UsageError
from diffedit_cli.models import registry
from diffedit_cli.pipeline import cache_keys
from diffedit_cli.pipeline.edit_kind import KINDS
from diffedit_cli.pipeline.edit_plan import DEFAULTS, FILL, NOISE, NOWHERE, PICTURE, Plan, plan_of
from diffedit_cli.pipeline.param_fields import POISSON, SEAMS
from diffedit_cli.pipeline.parameter import AUTO
from diffedit_cli.pipeline.params import VARIANTS_ETA, Params
from diffedit_cli.pipeline.prompts import Embeds, Sentences

PAPER = {
    "mask_strength": 0.5, "strength": 0.9, "guidance": 7.5, "invert_from": 0.0, "last_level": 0.0, "paste_above": 50.0,
}  # fmt: skip
OWN = {"guidance": 4.0, "invert_from": 0.2, "last_level": 0.3, "paste_above": 30.0}


def plan(source: Any, target: Any, own: dict[str, float] | None = None, **given: Any) -> Plan:
    return plan_of(Params(from_=source, to=target, **given), own or {})


def of_kind(kind: str, own: dict[str, float] | None = None, **given: Any) -> Plan:
    return plan(*PROMPTS[kind], own, **given)


# the kind


def test_every_kind_has_prompts_and_defaults_here() -> None:
    assert PROMPTS.keys() == DEFAULTS.keys() == set(KINDS)


def test_the_defaults_are_of_the_kinds_nature() -> None:
    """Another object needs the most room; what is new from noise has no inversion, nor has what is filled."""
    assert DEFAULTS["object"]["room"] > DEFAULTS["attribute"]["room"] > 0
    assert DEFAULTS["remove"]["room"] > 0
    assert [DEFAULTS[kind]["room"] for kind in ("background", "everything", "add")] == [0, 0, 0]
    assert {kind for kind in KINDS if DEFAULTS[kind].get("invert_from") == 1} == {"background", "add", "remove"}
    assert {kind for kind in KINDS if DEFAULTS[kind].get("strength") == 1} == {"background", "add"}
    assert NOWHERE["strength"] < DEFAULTS["remove"]["strength"] < 1
    assert DEFAULTS["remove"]["guidance"] == 1
    assert {name for own in DEFAULTS.values() for name in own} <= {"grow", "room", *PAPER}


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompts_say_which_kind_it_is_unless_that_is_given(kind: str) -> None:
    assert Params().region == AUTO
    found = of_kind(kind)
    assert (found.kind, found.given.region) == (kind, kind)
    for other in KINDS:
        assert of_kind(kind, region=other).kind == other


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="--region sky is unknown; use auto, object"):
        Params(region="sky")


def test_what_has_no_words_is_an_object(tmp_path: Path) -> None:
    file = Embeds("0" * 64, tmp_path / "cat.safetensors")
    assert plan(file, "a dog").kind == plan("a cat", file).kind == plan("", "a dog").kind == "object"
    assert plan(file, "a dog", region="background").kind == "background"


def test_what_is_written_about_a_concept_is_of_its_kind() -> None:
    source, target = (Sentences(words, ("one", "two"), "m") for words in PROMPTS["background"])
    found = plan(source, target)
    assert found.kind == "background"
    assert found.painted.to == "in the snow"
    assert found.compared.from_ == source


# values


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_given_is_the_kinds_own_else_the_usual(kind: str) -> None:
    found = of_kind(kind).given
    expected = {**PAPER, **DEFAULTS[kind]}
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_models_own_values_stand_between(kind: str) -> None:
    found = of_kind(kind, OWN).given
    expected = {**PAPER, **OWN, **DEFAULTS[kind]}
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "given",
    [
        {"room": 0.0},
        {"room": 1.0},
        {"strength": 0.7},
        {"mask_strength": 0.4},
        {"guidance": 2.0},
        {"guidance": 0.0},
        {"invert_from": 0.0},
        {"last_level": 0.0},
        {"paste_above": 0.0},
        {"negative": ""},
        {"negative": "snow"},
        {"grow": 2.0},
    ],
    ids=str,
)
def test_what_is_given_is_never_replaced(kind: str, given: dict[str, Any]) -> None:
    found = of_kind(kind, OWN, **given)
    ((name, value),) = given.items()
    assert getattr(found.given, name) == getattr(found.painted, name) == value
    others = {**PAPER, **OWN, **DEFAULTS[kind]}
    others.pop(name, None)
    assert {other: getattr(found.given, other) for other in others} == others


def test_all_given_is_all_there_is() -> None:
    """The paper's settings are its own for every kind of model."""
    paper = {**PAPER, "room": 0.0, "negative": "", "region": "object"}
    assert of_kind("object", **paper) == of_kind("object", OWN, **paper)
    found = of_kind("object", **paper)
    assert found.given == found.compared == found.painted
    assert not found.tightens


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("room", -0.1, "--room must be between 0 and 2"),
        ("room", 2.1, "--room must be between 0 and 2"),
        ("paste_above", 256.0, "--paste-above must be between 0 and 255"),
        ("last_level", 1.5, "--last-level must be between 0 and 1"),
        ("strength", 0.0, "the default is 0.9"),
        ("mask_strength", 1.1, "the default is 0.5"),
        ("best", True, "--best chooses among several"),
    ],
)
def test_values_out_of_range_are_said(name: str, value: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Params(**{name: value})


def test_records_say_what_was_not_given_as_usual_and_all_of_a_plan() -> None:
    params = Params(from_="cat", to="dog")
    filled = params.with_defaults({"mask_strength": 0.5, "strength": 0.9, "guidance": 7.5})
    assert cache_keys.contrast(params) == cache_keys.contrast(filled)
    assert cache_keys.inversion(params) == cache_keys.inversion(filled)
    assert cache_keys.repainting(params) == cache_keys.repainting(filled)
    assert cache_keys.all_parameters(params) != cache_keys.all_parameters(filled)
    said = cache_keys.edit(of_kind("object", OWN).given)
    assert {name: said[name] for name in ("region", "room", "paste-above", "guidance", "negative")} == {
        "region": "object", "room": 0.4, "paste-above": 30.0, "guidance": 4.0, "negative": "",
    }  # fmt: skip


# what is compared and painted


@pytest.mark.parametrize("kind", ["object", "attribute", "everything", "remove"])
def test_most_kinds_compare_the_prompts_as_they_are(kind: str) -> None:
    found = of_kind(kind)
    assert (found.compared.from_, found.compared.to) == PROMPTS[kind]
    assert found.there is None


def test_of_a_background_the_thing_in_it_is_sought() -> None:
    found = of_kind("background")
    assert (found.compared.from_, found.compared.to) == (f"a cat {GRASS}", GRASS)
    assert found.painted.to == "in the snow"
    assert found.given.to == "a cat in the snow"
    assert found.record() == {"region": "background", "room": 0.0, "paste-above": 50.0, "from": f"a cat {GRASS}"}


def test_what_is_added_is_sought_where_the_target_sees_it_beside_what_is_there() -> None:
    found = of_kind("add", from_negative="snow", to_negative="sand")
    source, target = PROMPTS["add"]
    assert (found.compared.from_, found.compared.to) == (target, source)
    assert (found.compared.from_negative, found.compared.to_negative) == ("sand", "snow")
    assert (found.compared.maps, found.compared.mask_strength) == (2, 0.75)
    assert found.there is not None
    assert (found.there.from_, found.there.to) == (source, GRASS)
    assert (found.there.maps, found.there.mask_strength) == (2, 0.5)
    assert found.painted.to == target
    several = of_kind("add", maps=5)
    assert several.there is not None
    assert several.compared.maps == several.there.maps == 5
    assert plan(f"an empty meadow {GRASS}", "a rose", region="add").there is None  # nothing stays


def test_what_is_removed_is_not_told_to_who_paints() -> None:
    found = of_kind("remove")
    assert found.painted.to == GRASS
    assert found.record()["from"] == PROMPTS["remove"][0]


def test_what_is_removed_where_no_place_is_named_stays_near_its_fill() -> None:
    """Without words a network would paint a thing into it."""
    nowhere = plan("a cat and a rose", "a rose")
    assert nowhere.painted.to == ""
    assert {name: getattr(nowhere.painted, name) for name in NOWHERE} == NOWHERE
    named = of_kind("remove").painted
    assert {name: getattr(named, name) for name in NOWHERE} == {name: DEFAULTS["remove"][name] for name in NOWHERE}
    assert plan("a cat and a rose", "a rose", strength=0.8).painted.strength == 0.8


@pytest.mark.parametrize("kind", ["background", "remove"])
def test_of_a_kind_that_is_only_said_all_of_the_target_is_painted(kind: str) -> None:
    found = plan(*PROMPTS["object"], region=kind)
    assert found.painted.to == PROMPTS["object"][1]
    assert "from" not in found.record()


@pytest.mark.parametrize(
    ("kind", "start", "tightens", "judged", "claims"),
    [
        ("object", PICTURE, True, True, True),
        ("attribute", PICTURE, True, True, True),
        ("background", NOISE, False, False, True),
        ("everything", PICTURE, False, False, False),
        ("add", NOISE, True, True, False),
        ("remove", FILL, False, False, True),
    ],
)
def test_what_each_kind_starts_from_keeps_and_claims(
    kind: str, start: str, tightens: bool, judged: bool, claims: bool
) -> None:
    found = of_kind(kind)
    assert (found.start, found.tightens, found.judged, found.claims) == (start, tightens, judged, claims)
    for words in ({"anyway": True}, {"from_negative": "snow"}):  # a negative says more than what is there
        assert not of_kind(kind, **words).claims
    assert of_kind(kind, room=0.0).tightens == (kind == "add")
    assert (found.seam == POISSON) == (tightens or kind == "remove")
    assert (of_kind(kind, room=0.0).seam == POISSON) == (kind in ("add", "remove"))  # as in the paper's way
    for how in SEAMS:
        assert of_kind(kind, seam=how).seam == how


def test_a_variant_is_one_in_both_of_its_parameters() -> None:
    several = {"variants": 3, "best": True, "seed": 5}
    for kind, eta in (("background", 0.0), ("object", VARIANTS_ETA)):  # of which the first has noise of its own
        found = of_kind(kind, **several).variant(2, own_noise=kind == "background")
        for params in (found.given, found.painted):
            assert (params.seed, params.variants, params.eta, params.best) == (7, 1, eta, False)
    assert of_kind("object", **several).variant(0, own_noise=False).painted.eta == 0
    found = of_kind("background", **several).variant(2, own_noise=True)
    assert (found.painted.to, found.given.to) == ("in the snow", "a cat in the snow")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attends", [True, False])
def test_the_record_says_the_method_that_the_mask_was_found_by(kind: str, attends: bool) -> None:
    source, target = PROMPTS[kind]
    found = plan_of(Params(from_=source, to=target), {}, attends=attends)
    assert found.given.mask_method == found.compared.mask_method
    again = plan_of(Params(from_=source, to=target, region=kind, mask_method=found.given.mask_method), {}, attends=True)
    assert again.compared.mask_method == found.compared.mask_method


def test_the_method_suits_the_kind_of_edit() -> None:
    """Attention to the word for a look shows less of the thing than the predictions differ in."""
    told = {kind: plan_of(Params(from_=PROMPTS[kind][0], to=PROMPTS[kind][1]), {}, attends=True) for kind in KINDS}
    methods = {kind: one.compared.mask_method for kind, one in told.items()}
    assert methods == {kind: "noise" if kind == "attribute" else "both" for kind in KINDS}


# the negative


@pytest.mark.parametrize(
    ("source", "target", "negative"),
    [
        ("a cat", "a dog", ""),
        ("a cat and a rose", "a dog and a rose", "a rose"),
        ("a cat and a red rose and a hat", "a dog and a red rose and a hat", "a red rose and a hat"),
        ("a cat and a rose", "a black cat and a rose", "a rose"),
        ("a cat", "a cat and a rose", "a cat"),
        ("a cat and a rose", "a rose", ""),
        ("a cat and a rose on the grass", "a cat and a rose in the snow", ""),
        ("a bowl of apples", "a bowl of oranges", ""),  # what comes is in it
    ],
)
def test_things_that_both_name_are_the_negative_where_something_is_painted_beside_them(
    source: str, target: str, negative: str
) -> None:
    found = plan(source, target)
    assert found.given.negative == found.painted.negative == negative


# what a model says of itself


def test_a_model_says_its_own_values(copy: Path) -> None:
    assert registry.find(str(copy)).defaults == {}
    said = {"strength": 0.25, "limit": 9.0, **{name.replace("_", "-"): value for name, value in OWN.items()}}
    (copy / "fitness.json").write_text(json.dumps(said))
    folder = registry.find(str(copy))
    assert folder.defaults == OWN
    assert (folder.evidence, folder.unexplained) == (None, None)
    (copy / "fitness.json").write_text(json.dumps({**said, "evidence": -0.35, "unexplained": 0.5}))
    folder = registry.find(str(copy))
    assert (folder.evidence, folder.unexplained) == (-0.35, 0.5)


@pytest.mark.parametrize(
    ("source", "target", "judged"),
    [
        ("a cat", "a dog", True),
        ("a red car", "a blue car", True),
        ("a cat", "a cat and a ball", True),
        ("a bowl of apples", "a bowl of oranges", False),
        ("a bowl of apples", "a box of apples", True),
        ("a cat on the grass", "a cat in the snow", False),
        ("a cat and a ball", "a cat", False),
    ],
)
def test_a_result_is_judged_where_what_to_explains_says_something(source: str, target: str, judged: bool) -> None:
    """40 bowls of fruit: a success was explained better than a failure in 49 of 100 pairs."""
    assert plan_of(Params(from_=source, to=target), {}).judged == judged


@pytest.mark.parametrize(
    ("name", "value"),
    [("guidance", -1), ("guidance", 101), ("last-level", 1.5), ("paste-above", 256), ("guidance", "x")],
)
def test_a_damaged_value_of_its_own_is_named(copy: Path, name: str, value: object) -> None:
    (copy / "fitness.json").write_text(json.dumps({"strength": 0.25, "limit": 9.0, name: value}))
    with pytest.raises(
        ModelError, match=rf"is damaged: .*({name} in .*fitness\.json is|fitness\.json (lacks|{name} is))"
    ):
        _ = registry.find(str(copy)).defaults


def test_a_model_that_is_saved_again_keeps_its_words(copy: Path, tmp_path: Path) -> None:
    (copy / "world.json").write_text(json.dumps({"words": ["cat", "dog"]}))
    assert registry.find(str(copy)).words == ["cat", "dog"]
    shutil.copytree(copy, tmp_path / "again")
    registry.find(str(copy)).save(tmp_path / "saved", lambda _: None)
    assert registry.find(str(tmp_path / "saved")).words == ["cat", "dog"]
