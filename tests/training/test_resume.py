"""The UNet's training goes on exactly from where an interruption left it, its main run and its decay."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from training.latents import Batch, Scenes, Wanted
from training.settings import UnetTraining
from training.unet import UnetTrainer
from training.workspace import save_atomically

TINY = UnetTraining(channels=(8, 8, 8), text_width=8, text_layers=1, batch=4, most_shards=1, one_object_pictures=0)
CONTENTS = [("one", (name,), "snow") for name in ("cat", "dog", "pig", "cow")]
Run = Callable[[UnetTrainer, Path], None]


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    noise = torch.randn((4, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    two = [("two", ("cat", "dog"), "snow")] * 2
    for name in ("pairs-0000.pt", "wider-pairs-0000.pt"):
        save_atomically((torch.cat([noise, noise[:2]]), CONTENTS + two), tmp_path / "latents" / name)
    return tmp_path / "latents"


def trainer(folder: Path, latents: Path) -> UnetTrainer:
    torch.manual_seed(0)
    return UnetTrainer(folder, AutoencoderKL(), latents, TINY)


def main_run(trainer: UnetTrainer, _: Path) -> None:
    trainer.train(until=trainer.step - trainer.step % 10 + 10, save_seconds=0)


def decay(trainer: UnetTrainer, result: Path) -> None:
    trainer.decay(10, result, save_seconds=0)


@pytest.mark.thorough
@pytest.mark.parametrize(("run", "result"), [(main_run, "checkpoint.pt"), (decay, "decayed.pt")])
def test_an_interrupted_run_ends_as_if_nothing_had_been(
    run: Run, result: str, latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, left = Scenes.batch, 0

    def interrupted(scenes: Scenes, wanted: Sequence[Wanted], rng: random.Random) -> Batch:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return batch(scenes, wanted, rng)

    monkeypatch.setattr(Scenes, "batch", interrupted)
    ends = []
    for name, interruptions in (("whole", 0), ("interrupted", 2)):
        folder = tmp_path / name
        main_run(trainer(folder, latents), folder)
        steps: list[int] = []
        for at in range(interruptions):
            left = 6  # in the third step: each takes a batch of either world
            with pytest.raises(KeyboardInterrupt):
                run(last := trainer(folder, latents), folder / result)
            steps.append(last.step)
            assert steps == [12, 14][: at + 1]
        run(trainer(folder, latents), folder / result)
        ends.append(torch.load(folder / result, weights_only=False))
        assert ends[-1]["step"] == 20
    for part in ("model", "average"):
        for value, other in zip(*(end[part].values() for end in ends), strict=True):
            assert torch.equal(value, other)


@pytest.mark.thorough
def test_a_decay_leaves_the_main_run_alone_and_belongs_to_one_checkpoint_of_it(latents: Path, tmp_path: Path) -> None:
    trained = trainer(tmp_path, latents)
    main_run(trained, tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    unfinished = trainer(tmp_path, latents)
    unfinished.train_step()
    unfinished.save(tmp_path / "decaying-from-36.pt")  # of another checkpoint: not gone on from
    trainer(tmp_path, latents).decay(50, tmp_path / "decayed.pt")
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert torch.load(tmp_path / "decayed.pt", weights_only=False)["pictures"] == 60 * TINY.batch
    rows = (tmp_path / "decay.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "50"]
    assert (tmp_path / "decay.png").stat().st_size > 1_000
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["checkpoint.pt", "decayed.pt", "decaying-from-36.pt"]


def test_a_decay_is_made_anew_only_where_the_main_run_went_on(latents: Path, tmp_path: Path) -> None:
    decayed = tmp_path / "decayed.pt"
    main_run(trainer(tmp_path, latents), tmp_path)
    made = []
    for goes_on in (False, False, True):
        if goes_on:
            main_run(trainer(tmp_path, latents), tmp_path)
        trainer(tmp_path, latents).decay(10, decayed)
        made.append((decayed.stat().st_ino, torch.load(decayed, weights_only=False)["step"]))
    assert made[0] == made[1]
    assert [step for _, step in made] == [20, 20, 30]
