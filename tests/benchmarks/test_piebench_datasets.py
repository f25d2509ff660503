"""piebench reads each data set in its own format, and refuses what is none; what it tells of kinds of edits."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from edit_sets import CASES, masked_out, picture, write_parquet, write_piebench

pytest.importorskip("benchmarks", reason="a source distribution has no benchmarks")

from benchmarks.piebench.__main__ import main
from benchmarks.piebench.cases import Case, Mask
from benchmarks.piebench.datasets import DataSet, read
from diffedit_cli.errors import InputError

HALF = np.repeat([True, False], 256)[:, None] & np.ones((512, 512), dtype=bool)


@pytest.fixture
def piebench(tmp_path: Path) -> Path:
    return write_piebench(tmp_path / "pie")


def mask_of(case: Case) -> Mask | None:
    return case.read_mask(case.read_picture().size[::-1])


def test_piebench_has_its_own_format(piebench: Path) -> None:
    found = read(piebench)
    assert found.title == "PIE-Bench"
    assert [case.name for case in found.cases] == [name for name, *_ in CASES]
    cat = found.cases[1]
    assert cat.path == "1_change_object_80/1_artificial/1_animal/111000000000.jpg"
    assert (cat.kind, cat.source, cat.target) == ("1", "a cat on the grass", "a dog on the grass")
    assert cat.instruction == "Make it a dog on the grass"
    assert cat.read_picture().size == (512, 512)
    shares = [mask.sum() for case in found.cases if (mask := mask_of(case)) is not None]
    assert shares == [0, 250 * 230, 262144 - 261000, 3 + 1, 512 * 500, 512 * 512]
    assert read(piebench / "mapping_file.json").cases[1].read_picture().size == (512, 512)


def test_a_folder_of_ones_own_may_have_other_sizes_and_no_masks(piebench: Path) -> None:
    mapping = json.loads((piebench / "mapping_file.json").read_text())
    wide = mapping["111000000000"] | {"image_path": "wide.png", "mask": [0, 400, 300 * 400 - 5, 99]}
    bare = {name: value for name, value in wide.items() if name not in ("mask", "editing_instruction", "blended_word")}
    picture(0).resize((400, 300)).save(piebench / "annotation_images" / "wide.png")
    (piebench / "mapping_file.json").write_text(json.dumps({"1": wide, "2": bare | {"image_path": "./wide.png"}}))
    masked, plain = read(piebench).cases
    mask = mask_of(masked)
    assert mask is not None
    assert mask.shape == (300, 400)
    assert mask[0].all()
    assert mask.sum() == 405
    assert mask_of(plain) is None


def test_piebench_pp_is_a_parquet_file_for_each_type(tmp_path: Path) -> None:
    rows = [
        {
            "image": picture(number), "id": f"{name}{number:011}", "source_prompt": "a [cat]",
            "target_prompt": "a [dog]", "edit_action": "{}", "aspect_mapping": "{}", "blended_words": [], "mask": mask,
        }
        for number, (name, mask) in enumerate([("1", "0 262144"), ("1", ""), ("1", "0 512 262100 99"), ("9", "7 2")])
    ]  # fmt: skip
    write_parquet(tmp_path / "1_change_object_80" / "V1-00000-of-00001.parquet", rows[:3])
    write_parquet(tmp_path / "9_change_style_80" / "V1-00000-of-00001.parquet", rows[3:])
    found = read(tmp_path)
    assert found.title == "PIE-Bench++"
    assert [case.kind for case in found.cases] == ["1", "1", "1", "9"]
    assert (found.cases[0].source, found.cases[0].target) == ("a cat", "a dog")
    assert found.cases[2].path == "1_change_object_80/100000000002.png"
    assert [mask.sum() for case in found.cases if (mask := mask_of(case)) is not None] == [262144, 0, 512 + 44, 2]
    for number, case in enumerate(found.cases):  # the third and last lie in other groups of rows
        assert np.array_equal(case.read_picture(), picture(number))


def test_a_truncated_picture_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Beside one that is whole: a picture is decoded where its row is known."""
    data = io.BytesIO()
    picture(0).save(data, "PNG")
    rows = [
        {"image": {"bytes": stored, "path": None}, "id": f"1{number:011}", "source_prompt": "a cat"}
        | {"target_prompt": "a dog", "mask": "0 9"}
        for number, stored in enumerate([data.getvalue(), data.getvalue()[:20000], b"GIF89a", b""])
    ]
    write_parquet(tmp_path / "1_change_object_80" / "V1-00000-of-00001.parquet", rows)
    whole, *broken = read(tmp_path).cases
    assert np.array_equal(whole.read_picture(), picture(0))
    for case in broken:
        with pytest.raises(InputError, match=r"has no picture image in row \d \("):
            case.read_picture()


CAPTIONS = {"7": {"7-input.png": "a cat", "7-output1.png": "a dog", "7-output2.png": "a dog on the beach"}}


@pytest.mark.parametrize("stored", ["parquet", "archive"])
def test_magicbrush_is_read_as_the_hub_and_as_its_archive_have_it(tmp_path: Path, stored: str) -> None:
    """Its masks are pictures, transparent where the edit may be; those of its turns may also be drawn in white."""
    white = masked_out(picture(0), ~HALF).getchannel("A")
    files = {"7-input.png": picture(0), "7-mask1.png": masked_out(picture(0), HALF)}
    files |= {"7-output1.png": picture(1), "7-mask2.png": white}
    if stored == "parquet":
        rows = [
            {"img_id": "7", "turn_index": turn, "source_img": files[source], "mask_img": files[f"7-mask{turn}.png"]}
            | {"instruction": "make it a dog", "target_img": picture(turn)}
            for turn, source in ((1, "7-input.png"), (2, "7-output1.png"))
        ]
        data = write_parquet(tmp_path / "data" / "dev-00000-of-00001.parquet", rows)
    else:
        data = tmp_path / "dev"
        (data / "images" / "7").mkdir(parents=True)
        for name, file in files.items():
            file.save(data / "images" / "7" / name)
        turns = [
            {
                "input": source,
                "mask": f"7-mask{turn}.png",
                "output": f"7-output{turn}.png",
                "instruction": "make it a dog",
            }
            for turn, source in ((1, "7-input.png"), (2, "7-output1.png"))
        ]
        (data / "edit_turns.json").write_text(json.dumps(turns))
    (tmp_path / "said.json").write_text(json.dumps(CAPTIONS))
    found = read(data, tmp_path / "said.json")
    assert found.title == "MagicBrush"
    assert [(case.name, case.kind) for case in found.cases] == [("7-1", "turn 1"), ("7-2", "turn 2")]
    assert [(case.source, case.target) for case in found.cases] == [("a cat", "a dog"), ("a dog", "a dog on the beach")]
    assert np.array_equal(found.cases[1].read_picture(), picture(1))
    for case in found.cases:
        assert np.array_equal(mask_of(case), HALF)
    assert {case.source for case in read(data).cases} == {""}


@pytest.mark.parametrize("stored", ["parquet", "folder"])
def test_emu_edit_has_captions_and_no_masks(tmp_path: Path, stored: str) -> None:
    row = {"idx": 12, "split": "test", "task": "style", "hash": "0f", "instruction": "make it a painting"}
    row |= {"input_caption": "a cat", "output_caption": "a painting of a cat"}
    if stored == "parquet":
        write_parquet(tmp_path / "test-00000-of-00001.parquet", [row | {"image": picture(2)}])
    else:
        picture(2).save(tmp_path / "12.png")
        (tmp_path / "metadata.jsonl").write_text(json.dumps(row | {"file_name": "12.png"}) + "\n\n")
    found = read(tmp_path)
    (case,) = found.cases
    assert (found.title, case.name, case.path, case.kind) == ("Emu Edit", "test-12", "style/test-12.png", "style")
    assert (case.source, case.target, case.instruction) == ("a cat", "a painting of a cat", "make it a painting")
    assert np.array_equal(case.read_picture(), picture(2))
    assert mask_of(case) is None


def test_cases_are_chosen_by_type_and_number(piebench: Path) -> None:
    found = read(piebench)
    twice = DataSet(found.title, found.cases + found.cases)
    assert [case.kind for case in twice.chosen(["9", "1"])] == ["1", "9", "1", "9"]
    assert [case.kind for case in twice.chosen(["9", "1"], 1)] == ["1", "9"]
    assert len(twice.chosen(most=1)) == 6
    with pytest.raises(InputError, match="no edits of type 5"):
        twice.chosen(["5"])


def damaged(piebench: Path, **changed: object) -> str:
    file = piebench / "mapping_file.json"
    mapping = json.loads(file.read_text())
    mapping["000000000000"] |= changed
    file.write_text(json.dumps(mapping))
    with pytest.raises(InputError) as refused:
        mask_of(read(piebench).cases[0])
    return str(refused.value)


def test_what_is_no_data_set_is_refused_in_a_sentence(piebench: Path, tmp_path: Path) -> None:
    assert "is not in its folder" in damaged(piebench, image_path="../../secret.jpg")
    assert "is not in its folder" in damaged(piebench, image_path="/etc/secret.jpg")
    assert "cannot be read" in damaged(piebench, image_path="none.jpg")
    assert "not a list of starts and lengths" in damaged(piebench, image_path="0_random_140/000000000000.jpg", mask=[1])
    for runs in ([-1, 4], ["0", 5], [0, None], [0.5, 3], 5, {"0": 5}, "0 many", "1"):
        assert "not a list of starts and lengths" in damaged(piebench, mask=runs)
    assert "2 edits with the path" in damaged(piebench, image_path="9_change_style_80/911000000000.jpg")
    for content, said in (("{}", "holds no edits"), ("[", "not in the format"), ('{"1": {}}', "not in the format")):
        (piebench / "mapping_file.json").write_text(content)
        with pytest.raises(InputError, match=said):
            read(piebench)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
    for path, said in (
        ("bad.parquet", "cannot be read"),
        ("none", "holds no mapping_file.json"),
        ("none.json", "holds no"),
    ):
        with pytest.raises(InputError, match=said):
            read(tmp_path / path)


def test_kinds_of_edits_are_counted_by_type(piebench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["regions", str(piebench / "mapping_file.json")]) == 0
    said = capsys.readouterr().out
    assert (
        "| type | expected | edits | object | attribute | background | everything | add | remove | as expected |"
        in said
    )
    assert "| 1 change object | object | 1 | 1 | 0 | 0 | 0 | 0 | 0 | 100% |" in said
    assert "| 4 change content | attribute | 1 | 0 | 0 | 0 | 0 | 1 | 0 | 0% |" in said
    assert "| 0 random | any | 1 | 1 |" in said
    assert "As expected: 4 of 5 (80.0%)." in said
    assert said.endswith("- 411000000000, 4 change content, read as add: 'a cat' -> 'a cat and a dog'\n")


def test_the_program_says_what_is_wrong_and_has_the_exit_code_of_its_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["regions", str(tmp_path)]) == InputError.code
    assert capsys.readouterr().err.startswith(f"{tmp_path} holds no mapping_file.json")
