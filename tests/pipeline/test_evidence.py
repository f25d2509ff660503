"""What is not there, what nobody knows, what is said in vain, and which of several results is the best."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import FAST, WORDS, diffedit
from edits_of_each_kind import KINDS, done, drawn, pixels, told
from safetensors.torch import save_file
from tiny import TEXT_WIDTH

from diffedit_cli import DiffEdit

# what is seen


@pytest.fixture
def says(copy: Path) -> Callable[..., Path]:
    """A model that takes any picture, and says more of itself."""

    def said(**more: float) -> Path:
        (copy / "fitness.json").write_text(json.dumps({"strength": 0.25, "limit": 1e9, **more}))
        return copy

    return said


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_seen_is_refused_unless_anyway(here: Path, says: Callable[..., Path], kind: str) -> None:
    words = (*told(kind), "--threshold", 0.6, "--model", says(evidence=9.0), "--json")
    if kind in ("everything", "add"):  # which claim nothing
        assert done("edit", "cat.png", *words).json["evidence"] is None
        return
    before = sorted(here.iterdir())
    for command in ("mask", "edit"):
        ran = diffedit(command, "cat.png", *words)
        assert ran.code == 5
        assert (
            "is seen in cat.png; name in --from something that the picture shows, or edit nevertheless with --anyway"
            in ran.err
        )
        assert sorted(here.iterdir()) == before
    found = done("edit", "cat.png", *words, "--anyway").json
    assert found["evidence"] is None


@pytest.mark.parametrize("kind", ["object", "attribute", "background", "remove"])
@pytest.mark.usefixtures("here")
def test_what_is_seen_is_edited_and_said(says: Callable[..., Path], kind: str) -> None:
    words = (*told(kind), "--threshold", 0.6, "--model", says(evidence=-9.0), "--json")
    first = done("edit", "cat.png", *words).json
    assert -1 <= first["evidence"] < 9
    again = done("mask", "cat.png", *words, "--threshold", 0.5).json
    assert again["evaluations"]["mask"] == 0
    plain = done("edit", "cat.png", *words, "--anyway", "-o", "plain.png").json
    assert plain["evaluations"]["mask"] == 0
    assert pixels("plain.png").tobytes() == pixels("cat.edited.png").tobytes()


@pytest.mark.usefixtures("here")
def test_evidence_costs_two_evaluations_once_a_picture(says: Callable[..., Path]) -> None:
    words = ("mask", "cat.png", *FAST, "--model", says(evidence=-9.0), "--json", "--from")
    costs = [
        done(*words, *more).json["evaluations"]["mask"] for more in (("cat", "--to", "dog"), ("dog", "--to", "cat"))
    ]
    assert costs == [4 + 2, 4]
    assert done(*words, "cat", "--to", "dog", "--seed", 1).json["evaluations"]["mask"] == 6


@pytest.mark.usefixtures("here")
def test_what_a_model_says_of_itself_counts_for_what_is_up_to_date(says: Callable[..., Path]) -> None:
    words = ("edit", "cat.png", *WORDS, "--json", "--model")
    statuses = [
        done(*words, says(**own)).json["status"]
        for own in ({}, {}, {"guidance": 3.0}, {"guidance": 3.0}, {"evidence": -9})
    ]
    assert statuses == ["done", "skipped", "done", "skipped", "done"]
    assert diffedit(*words, says(evidence=9.0)).code == 5


@pytest.mark.usefixtures("here")
def test_a_mask_that_is_given_is_not_doubted(says: Callable[..., Path]) -> None:
    drawn(Path("drawn.png"), 20, 10, 44, 30)
    assert done("edit", "cat.png", *WORDS, "--mask", "drawn.png", "--model", says(evidence=9.0), "--json")


# what is said in vain


@pytest.mark.parametrize("words", [("cat", "cat"), ("cat", " Cat "), ("a  cat", "a cat")])
@pytest.mark.usefixtures("here")
def test_prompts_that_say_the_same_are_refused_but_in_a_mask(words: tuple[str, str]) -> None:
    same = ("--from", words[0], "--to", words[1])
    for command in (("mask", "cat.png"), ("edit", "cat.png"), ("run", "cat.png", "--out", "out")):
        ran = diffedit(*command, *same)
        assert ran.code == 2
        assert f'--from and --to both say "{words[0]}"; say in --to what it should become.' in ran.err
    drawn(Path("drawn.png"), 20, 10, 44, 30)
    done("edit", "cat.png", *same, "--mask", "drawn.png")
    done("edit", "cat.png", *same, "--to-negative", "dog")


@pytest.fixture
def small_world(copy: Path) -> Path:
    """A model that says which words it knows."""
    (copy / "world.json").write_text(json.dumps({"words": ["a", "cat", "dog", "on", "grass"]}))
    return copy


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("--from", "a catt", "--to", "a dog"), '"catt"; did you mean cat? It knows only these words'),
        (("--from", "a cat", "--to", "a catle and a dogg"), '"catle" and "dogg"; did you mean cat, dog? It knows'),
        (("--from", "a cat", "--to", "a xyz"), '"xyz"; it knows only these words'),
        (("--from", "a cat", "--to", "a dog", "--negative", "trees"), '"trees"'),
        (("--from", "a cat", "--to", "a dog", "--caption", "trees"), '"trees"'),
        (("--from", "a cat", "--to", "a dog", "--to-negative", "trees"), '"trees"'),
    ],
)
@pytest.mark.usefixtures("sample_here")
def test_words_that_nobody_knows_are_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], meant: str
) -> None:
    monkeypatch.setattr("diffedit_cli.models.loader.LOADER.load", lambda *_: pytest.fail("loaded"))
    ran = diffedit("edit", "cat.png", *words)
    assert ran.code == 4
    assert f"The model builtin does not know {meant}" in ran.err
    assert "use a larger model (see diffedit models list), for instance with: diffedit models pull sd15" in ran.err


@pytest.mark.parametrize(
    "words", [("--from", "a (cat)1.3", "--to", "(a Dog)0.8."), ("--from", "cat!", "--to", "DOG, grass")]
)
@pytest.mark.usefixtures("here")
def test_weights_and_stops_are_no_words(small_world: Path, words: tuple[str, ...]) -> None:
    done("edit", "cat.png", *words, "--model", small_world)


@pytest.mark.usefixtures("here")
def test_only_who_is_told_a_word_need_know_it(small_world: Path, tiny_v: Path) -> None:
    drawn(Path("drawn.png"), 20, 10, 44, 30)
    given = ("edit", "cat.png", "--mask", "drawn.png", "--to", "a castle", "--model", small_world)
    assert diffedit(*given).code == 4
    done(*given, "--painter", tiny_v)
    assert diffedit("edit", "cat.png", "--from", "a cat", "--to", "a castle", *given[6:], "--painter", tiny_v).code == 4
    done("invert", "cat.png", "--caption", "a cat", "--model", small_world)
    assert diffedit("invert", "cat.png", "--caption", "a castle", "--model", small_world).code == 4
    ran = diffedit("edit", "cat.png", "--from", "a cat", "--to", "a dog", "--caption", "auto", "--model", small_world)
    assert "does not know" not in ran.err
    assert "blip" in ran.err


@pytest.mark.parametrize("embedding", ["toy.safetensors:<toy>", "toy.safetensors"])
@pytest.mark.usefixtures("here")
def test_words_that_are_added_are_known(small_world: Path, embedding: str) -> None:
    save_file({"<toy>": torch.zeros(1, TEXT_WIDTH)}, "toy.safetensors")
    words = ("edit", "cat.png", "--from", "a cat", "--to", "a <toy>", "--model", small_world)
    assert diffedit(*words).code == 4
    done(*words, "--embedding", embedding)


def test_a_picture_of_a_run_with_an_unknown_word_fails_alone(here: Path, small_world: Path) -> None:
    rows = [{"input": "cat.png", "output": "a.png"}, {"input": "cat.png", "output": "b.png", "to": "a castle"}]
    (here / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = diffedit("run", "jobs.jsonl", *WORDS, "--model", small_world, "--out", "out", "--json")
    assert ran.code == 8
    errors = [json.loads(line)["error"] for line in ran.out.splitlines()]
    assert errors[0] is None
    assert errors[1]["code"] == 4
    assert "castle" in errors[1]["message"]


# the best of several


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_several_is_one_of_them_and_the_only_file(here: Path, kind: str) -> None:
    words = ("edit", "cat.png", *told(kind), "--threshold", 0.6, "--variants", 3)
    all_of_them = done(*words, "-o", "all.png", "--json").json
    before = set(here.iterdir())
    found = done(*words, "--best", "-o", "best.png", "--json").json
    assert {path.name for path in set(here.iterdir()) - before} == {"best.png"}
    assert found["outputs"] == ["best.png"]
    results = [pixels(path).tobytes() for path in all_of_them["outputs"]]
    assert len(set(results)) == 3
    assert results.index(pixels("best.png").tobytes()) == found["seed"]


def test_the_best_from_python_is_that_of_the_command(here: Path, tiny_epsilon: Path) -> None:
    words = ("--threshold", 0.6, "--variants", 3, "--best", "--json")
    said = done("edit", "cat.png", *WORDS, *words).json
    shared = {"from_": "cat", "to": "dog", "steps": 5, "maps": 2, "threshold": 0.6}
    found = DiffEdit(tiny_epsilon, device="cpu").edit("cat.png", **shared, variants=3, best=True)  # type: ignore[arg-type]
    assert (len(found.variants), found.seed) == (1, said["seed"])
    found.save("python.png")
    assert (here / "python.png").read_bytes() == (here / "cat.edited.png").read_bytes()


@pytest.mark.usefixtures("here")
def test_which_is_best_does_not_depend_on_what_is_kept() -> None:
    words = ("edit", "cat.png", *told("object"), "--threshold", 0.6, "--variants", 4, "--best", "--json")
    seeds = [done(*words, *more, "--force").json["seed"] for more in (("--no-cache",), (), ())]
    assert len(set(seeds)) == 1
    assert done(*words, "--seed", seeds[0], "--force").json["seed"] >= seeds[0]


@pytest.mark.usefixtures("here")
def test_the_best_goes_with_several_results_and_no_sheet(inpainter: Path) -> None:
    for words, says in (
        ((), "--best chooses among several results"),
        (("--variants", 2, "--sheet", "s.png"), "--sheet shows several results side by side; leave out --best"),
        (("--variants", 2, "--painter", inpainter), "--best cannot judge the results of an inpainting model"),
    ):
        ran = diffedit("edit", "cat.png", *WORDS, *words, "--best")
        assert ran.code == 2
        assert says in ran.err


# warnings


def test_a_result_that_hardly_shows_what_it_should_is_said(here: Path, says: Callable[..., Path]) -> None:
    words = ("edit", "cat.png", *WORDS, "--json", "--model")
    for limit, is_said in ((0.0, True), (1e9, False)):
        found = done(*words, says(unexplained=limit), "--force").json
        assert any("hardly shows dog" in warning for warning in found["warnings"]) == is_said
    assert (here / "cat.edited.png").is_file()
