"""A picture's way through a command, and all that it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffedit_cli import files, formats, review
from diffedit_cli.errors import UsageError
from diffedit_cli.ownership import Ownership, Target
from diffedit_cli.params import AUTO, Params, levels_up_to
from diffedit_cli.prompts import Embeds

RESULT = ("-o", "--out")  # the options that name results
APART = "do them one by one, with -o or --out"


ENDINGS = {"mask": ".png", "invert": ".safetensors"}
"""Of what is written in one format."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture's way through a command. Paths may be `-`, and `output` None for the command's default name."""

    input: Path
    output: Path | None = None
    params: Params
    force: bool = False
    metadata: bool = True
    strip_metadata: bool = False  # of the input, too
    max_pixels: int = files.MAX_PIXELS
    within: Path | None = None
    exclude: Path | None = None
    box: tuple[int, ...] | None = None
    point: tuple[int, ...] | None = None
    mask: Path | None = None  # given, for an edit
    latents: Path | None = None  # given, for an edit
    mask_output: Path | None = None  # wanted beside an edit
    frames: Path | None = None  # the folder that wants the inversion as pictures
    save_embeds: Path | None = None  # the folder that wants the embeddings
    preview: Path | None = None  # the file that wants to show it, or the folder of such files
    overlay: Path | None = None
    compare: Path | None = None
    sheet: Path | None = None
    chosen_by: str = "-o"  # the option that chooses another output
    identity: str | None = None  # all that the result depends on, if it is to be skipped when that is the same
    before: str | None = None  # the identity of what an earlier run wrote, if all of it is there
    label: str | None = None  # what previews and frames are called by, for the input's stem
    ownership: Ownership = field(default_factory=Ownership, compare=False)  # of all that the command writes

    @property
    def inputs(self) -> list[Path]:
        given = (self.input, self.mask, self.latents, self.within, self.exclude)
        embeds = [prompt.path for prompt in vars(self.params).values() if isinstance(prompt, Embeds)]
        return [path for path in given if path is not None] + embeds

    @property
    def stages(self) -> list[str]:
        """Of an edit those that it has to do."""
        given = {"mask": self.mask, "invert": self.latents, "edit": None}
        return [stage for stage, file in given.items() if file is None]

    @property
    def written(self) -> list[Path]:
        """The results and the mask, as far as their names are given."""
        results = numbered(self.output, self.params) if self.output else []
        return results + ([self.mask_output] if self.mask_output else [])

    @property
    def shows(self) -> dict[str, Path]:
        """Where what people want to look at goes, by its kind in review. Raises UsageError."""
        given = {kind: getattr(self, kind) for kind in review.KINDS}
        return {kind: review.place(kind, path, self.called) for kind, path in given.items() if path is not None}

    @property
    def called(self) -> str:
        """What the files that show it are called by, perhaps with folders in front."""
        return self.label or ("picture" if self.input == files.STANDARD_STREAM else self.input.stem)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """All that a job writes, by what it is."""

    results: list[Target]
    mask: Target | None = None
    shows: Mapping[str, Target] = field(default_factory=dict)
    embeds: Mapping[str, Target] = field(default_factory=dict)
    frames: list[Target] = field(default_factory=list)

    @property
    def apart(self) -> list[Target]:
        """All that no other job may write, too; embeddings of the same prompt are the same."""
        return [*self.results, *([self.mask] if self.mask else []), *self.shows.values(), *self.frames]

    @property
    def everything(self) -> list[Target]:
        return [*self.apart, *self.embeds.values()]


def targets(job: Job, command: str, results: Sequence[Path] | None = None) -> Targets:
    """Of a job that does what `command` does; `results` where they are not called as names tell.

    Raises UsageError for names that no such file can have, or that are given twice.
    """
    stages = job.stages if command == "edit" else [command]

    _check_ending(job, command)
    folder = job.save_embeds or Path()
    levels = levels_up_to(job.params.strength or 1.0, job.params.steps) + 1
    wanted = Targets(
        results=[Target(path, job.chosen_by) for path in results or expected(command, job)],
        mask=Target(job.mask_output, job.chosen_by) if job.mask_output else None,
        shows={kind: Target(path, f"--{kind}") for kind, path in job.shows.items()},
        embeds={
            prompt: Target(folder / f"{prompt}.safetensors", "--save-embeds")
            for prompt in (job.params.prompts_of(stages) if job.save_embeds else ())
        },
        frames=[Target(frame_path(job, level), "--frames") for level in range(levels)] if job.frames else [],
    )  # fmt: skip
    taken: dict[Path, str] = {}
    for one in wanted.everything:
        if other := taken.get(files.resolved(one.path)):
            other = "another output" if other in RESULT else other
            raise UsageError(f"{one.option} and {other} would both write {one.path}; give each its own name.")
        taken[files.resolved(one.path)] = one.option
    return wanted


def _check_ending(job: Job, command: str) -> None:
    """Raises UsageError for a result that is called by what it is not."""
    ending = ENDINGS.get(command)
    if ending and job.output and job.output.suffix.lower() in {*formats.EXTENSIONS, *ENDINGS.values()} - {ending}:
        raise UsageError(f"diffedit {command} writes no {job.output.suffix} file; name one that ends in {ending}.")


def claim_all(jobs: Sequence[Job], command: str, names: Sequence[str], remedy: str = APART) -> None:
    """As `claim` for each, once what all of them read is known."""
    for job in jobs:
        job.ownership.reads(job.inputs)
    for job, name in zip(jobs, names, strict=True):
        claim(job, command, name, remedy)


def claim(job: Job, command: str, name: str, remedy: str = APART) -> None:
    """Marks all that a job of this name writes as its own, as far as names tell.

    Raises UsageError for what another job writes, too, OutputError for what any of them reads.
    """
    wanted, remedies = targets(job, command), {job.chosen_by: remedy, "--preview": "name a folder with --preview"}
    for one in wanted.apart:
        job.ownership.claim(one, name, remedies.get(one.option, "do them one by one"))
    prompts = job.params.prompts_of()
    for prompt, one in wanted.embeds.items():
        job.ownership.claim(one, f'the prompt "{prompts[prompt]}"', "do them one by one", shared=True)


def expected(command: str, job: Job) -> list[Path]:
    """The results of a command, as far as names tell."""
    endings = {"mask": ".mask.png", "invert": ".latents.safetensors", "edit": f".edited{written_extension(job.input)}"}
    output = job.output or beside(job.input, endings[command])
    return numbered(output, job.params) if command == "edit" else [output]


def numbered(output: Path, params: Params) -> list[Path]:
    """Where the variants go: cat.png, cat-2.png, cat-3.png ..."""
    count = 1 if params.best else params.variants
    others = [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(2, count + 1)]
    return [output, *others]


def written_extension(path: Path) -> str:
    return path.suffix if path.suffix.lower() in formats.EXTENSIONS else ".png"


def beside(path: Path, ending: str) -> Path:
    if path == files.STANDARD_STREAM:
        return path
    return path.with_name(path.stem + ending) if path.name else path / ending  # a folder, which fails when it is read


def frame_path(job: Job, level: int) -> Path:
    """Where the picture of a level of the inversion goes, if they are wanted."""
    return (job.frames or Path()) / f"{job.called}-{level:03}.png"


def check_options(jobs: Sequence[Job]) -> None:
    """Raises UsageError for what is wanted beside the results and does not go with them."""
    if len(jobs) > 1 and any(job.save_embeds and job.params.caption == AUTO for job in jobs):
        raise UsageError("--save-embeds with --caption auto goes with one picture: each has a caption of its own.")
    if any(job.sheet is not None and (job.params.variants < 2 or job.params.best) for job in jobs):
        remedy = "leave out --best" if any(job.params.best for job in jobs) else "ask for them with --variants"
        raise UsageError(f"--sheet shows several results side by side; {remedy}.")
