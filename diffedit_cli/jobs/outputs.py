"""The files that a job writes, by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffedit_cli.errors import UsageError
from diffedit_cli.images import codecs
from diffedit_cli.jobs.job import Job
from diffedit_cli.jobs.output_names import default_path, variant_paths, written_extension
from diffedit_cli.pipeline.params import levels_up_to
from diffedit_cli.storage import files
from diffedit_cli.storage.ownership import Target

RESULT = ("-o", "--out")  # the options that name results


ENDINGS = {"mask": ".png", "invert": ".safetensors"}
"""Extensions of the results of commands that write one format."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """All files that a job writes, by kind."""

    results: list[Target]
    mask: Target | None = None
    shows: Mapping[str, Target] = field(default_factory=dict)
    embeds: Mapping[str, Target] = field(default_factory=dict)
    frames: list[Target] = field(default_factory=list)

    @property
    def apart(self) -> list[Target]:
        """Files that no other job may write; embeddings are shared, as those of the same prompt are equal."""
        return [*self.results, *([self.mask] if self.mask else []), *self.shows.values(), *self.frames]

    @property
    def everything(self) -> list[Target]:
        return [*self.apart, *self.embeds.values()]


def targets(job: Job, command: str, results: Sequence[Path] | None = None) -> Targets:
    """Returns the files that a job of `command` writes; `results` replaces the expected paths of its results.

    Raises UsageError for a name that such a file cannot have, and for two files of one name.
    """
    stages = job.stages if command == "edit" else [command]

    _check_ending(job, command)
    folder = job.save_embeds or Path()
    levels = levels_up_to(job.params.strength or 1.0, job.params.step_count) + 1
    wanted = Targets(
        results=[Target(path, job.chosen_by) for path in results or expected_outputs(command, job)],
        mask=Target(job.mask_output, job.mask_chosen_by) if job.mask_output else None,
        shows={kind: Target(path, f"--{kind}") for kind, path in job.shows.items()},
        embeds={
            prompt: Target(folder / f"{prompt}.safetensors", "--save-embeds")
            for prompt in (job.params.prompts_of(stages) if job.save_embeds else ())
        },
        frames=[Target(frame_path(job, level), "--frames") for level in range(levels)] if job.frames else [],
    )  # fmt: skip
    taken: dict[Path, str] = {}
    for one in wanted.everything:
        if other := taken.get(files.resolve(one.path)):
            other = "another output" if other in RESULT else other
            raise UsageError(f"{one.option} and {other} would both write {one.path}; give each its own name.")
        taken[files.resolve(one.path)] = one.option
    return wanted


def _check_ending(job: Job, command: str) -> None:
    """Raises UsageError for a result with the extension of another format."""
    ending = ENDINGS.get(command)
    if ending and job.output and job.output.suffix.lower() in {*codecs.EXTENSIONS, *ENDINGS.values()} - {ending}:
        raise UsageError(f"diffedit {command} writes no {job.output.suffix} file; name one that ends in {ending}.")
    if job.mask_output and job.mask_output.suffix.lower() != ENDINGS["mask"]:
        raise UsageError(f"{job.mask_chosen_by} {job.mask_output} is not a .png file; masks are written as PNG.")


def expected_outputs(command: str, job: Job) -> list[Path]:
    """Returns the expected paths of a command's results; the picture itself is not read."""
    endings = {"mask": ".mask.png", "invert": ".latents.safetensors", "edit": f".edited{written_extension(job.input)}"}
    output = job.output or default_path(job.input, endings[command])
    return variant_paths(output, job.params) if command == "edit" else [output]


def frame_path(job: Job, level: int) -> Path:
    """Returns the path of the picture of an inversion level, for a job with `frames`."""
    return (job.frames or Path()) / f"{job.base_name}-{level:03}.png"
