"""Pictures -> jobs -> results: what each command does to one picture, and to many, failures kept apart."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit_cli import artefacts, files, images, limits
from diffedit_cli.errors import DiffEditError, InputError, UsageError, Withheld
from diffedit_cli.images import Picture
from diffedit_cli.params import Params, levels_up_to
from diffedit_cli.prompts import Embeds
from diffedit_cli.report import Result

if TYPE_CHECKING:
    from diffedit_cli.account import Account
    from diffedit_cli.artefacts import Latents
    from diffedit_cli.stages import Workbench

OpenWorkbench = Callable[[], "Workbench"]  # called once inputs and outputs are known to be good: it imports torch
READ_EXTENSIONS = (*images.EXTENSIONS, ".gif")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture's way through a command. Paths may be `-`, and `output` None for the command's default name."""

    input: Path
    output: Path | None = None
    params: Params
    force: bool = False
    metadata: bool = True
    within: Path | None = None
    exclude: Path | None = None
    mask: Path | None = None  # given, for an edit
    latents: Path | None = None  # given, for an edit
    mask_output: Path | None = None  # wanted beside an edit
    frames: Path | None = None  # the folder that wants the inversion as pictures
    save_embeds: Path | None = None  # the folder that wants the embeddings

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


def mask(job: Job, workbench: OpenWorkbench) -> Result:
    """Finds the mask and writes it. Raises DiffEditError."""
    picture = images.load(job.input)
    allowed = limits.load(picture, job.within, job.exclude)
    output = _target(job, job.output or _beside(job.input, ".mask.png"))
    embeds = _embeds_targets(job, ["mask"])
    bench = workbench()
    account = bench.open_account()
    found = bench.mask(picture, job.params, account, allowed)
    _save_embeds(embeds, job, picture, bench, account)
    files.publish(output, artefacts.pack_mask(found))
    return _result(job, picture, bench, account, output=output, mask=str(output), mask_area=found.share)


def invert(job: Job, workbench: OpenWorkbench) -> Result:
    """Inverts the picture and writes its latents. Raises DiffEditError."""
    picture = images.load(job.input)
    output = _target(job, job.output or _beside(job.input, ".latents.safetensors"))
    embeds = _embeds_targets(job, ["invert"])
    frames = _frames_targets(job)
    bench = workbench()
    account = bench.open_account()
    latents = bench.invert(picture, job.params, account)
    _save_embeds(embeds, job, picture, bench, account)
    _save_frames(frames, latents, bench, account)
    files.publish(output, artefacts.pack_latents(latents))
    return _result(job, picture, bench, account, output=output)


def edit(job: Job, workbench: OpenWorkbench) -> Result:
    """Edits the picture, computing what of mask and latents is not given. Raises DiffEditError.

    Of an edit that is withheld nothing is written, not even its mask.
    """
    picture = images.load(job.input)
    given_mask = artefacts.load_mask(job.mask, job.params.soft) if job.mask else None
    given_latents = artefacts.load_latents(job.latents) if job.latents else None
    allowed = limits.load(picture, job.within, job.exclude)
    extension = images.default_extension(picture)
    outputs = numbered(job.output or _beside(job.input, f".edited{extension}"), job.params)
    for output in outputs:
        _target(job, output)
    chosen = images.output_format(outputs[0], picture)
    if job.mask_output is not None:
        _target(job, job.mask_output)
    embeds = _embeds_targets(job, job.stages)
    frames = _frames_targets(job)
    bench = workbench()
    account = bench.open_account()
    variants = bench.edit(picture, job.params, account, given_mask, given_latents, allowed)
    first = variants[0]
    data = [images.encode(one.image, picture, chosen, one.record if job.metadata else None) for one in variants]
    _save_embeds(embeds, job, picture, bench, account)
    if first.latents is not None:
        _save_frames(frames, first.latents, bench, account)
    if job.mask_output is not None:
        files.publish(job.mask_output, artefacts.pack_mask(first.mask))
    for output, picture_data in zip(outputs, data, strict=True):
        files.publish(output, picture_data)
    shown = job.mask or job.mask_output
    return _result(
        job,
        picture,
        bench,
        account,
        output=outputs[0],
        outputs=tuple(map(str, outputs)),
        mask=str(shown) if shown else None,
        mask_area=first.mask.share,
    )


def each(
    jobs: Iterable[Job],
    command: Callable[[Job, OpenWorkbench], Result],
    workbench: OpenWorkbench,
    *,
    on_bug: Callable[[str], Any],
) -> Iterator[Result]:
    """Results in order; a picture that fails gives a failed result and the next begins. Bugs go to `on_bug`, too."""
    for job in jobs:
        try:
            yield command(job, workbench)
        except DiffEditError as error:
            failed = _failed(job, error.code, str(error))
            yield replace(failed, status="withheld") if isinstance(error, Withheld) else failed
        except Exception as error:
            on_bug(traceback.format_exc())
            yield _failed(job, DiffEditError.code, bug_message(error))


def bug_message(error: BaseException) -> str:
    return (
        f"Something went wrong that should not ({type(error).__name__}: {error}); "
        "run it again with --verbose and report what it prints."
    )


def pictures_in(sources: Iterable[Path]) -> list[Path]:
    """Single pictures as given; of a folder those that diffedit did not make, by name, without sub-folders.

    Raises InputError for a folder without any.
    """
    found: list[Path] = []
    for source in sources:
        if not source.is_dir():
            found.append(source)
            continue
        inside = sorted(path for path in source.iterdir() if path.suffix.lower() in READ_EXTENSIONS)
        inside = [path for path in inside if not made_by_us(path)]
        if not inside:
            raise InputError(f"The folder {source} holds no pictures ({', '.join(READ_EXTENSIONS)}).")
        found += inside
    return found


def plan(sources: Iterable[Path], out: Path, **shared: Any) -> list[Job]:
    """A job for each picture, its output and mask in `out` under the picture's own name, all else `shared`.

    Raises UsageError when two pictures would get the same name, and OutputError for a folder that cannot be made.
    """
    pictures = pictures_in(sources)
    if files.STANDARD_STREAM in pictures:
        raise UsageError("diffedit run takes pictures and folders; use diffedit edit for standard input.")
    jobs = [
        Job(
            input=path,
            output=out / (path.stem + _written_extension(path)),
            mask_output=out / f"{path.stem}.mask.png",
            **shared,
        )
        for path in pictures
    ]
    check_distinct(
        (job.input, target)
        for job in jobs
        for target in (*numbered(job.output or job.input, job.params), job.mask_output)
        if target
    )
    files.make_folder(out, "--out")
    return jobs


def check_distinct(targets: Iterable[tuple[Path, Path]]) -> None:
    """Raises UsageError when two of the (input, output) pairs have the same output."""
    taken: dict[Path, Path] = {}
    for source, target in targets:
        if (other := taken.setdefault(target, source)) is not source:
            raise UsageError(f"{other} and {source} would both write {target}; do them one by one, with -o or --out.")


def edited_beside(path: Path) -> Path:
    """Where `edit` writes by default, as far as the name tells."""
    return _beside(path, f".edited{_written_extension(path)}")


def numbered(output: Path, params: Params) -> list[Path]:
    """Where the variants go: cat.png, cat-2.png, cat-3.png ..."""
    others = [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(2, params.variants + 1)]
    return [output, *others]


def _written_extension(path: Path) -> str:
    return path.suffix if path.suffix.lower() in images.EXTENSIONS else ".png"


def _beside(path: Path, ending: str) -> Path:
    return files.STANDARD_STREAM if path == files.STANDARD_STREAM else path.with_name(path.stem + ending)


def _target(job: Job, path: Path) -> Path:
    files.check_target(path, inputs=job.inputs, ours=made_by_us(path), force=job.force)
    return path


def _embeds_targets(job: Job, stages: Iterable[str]) -> dict[str, Path]:
    """Where the embeddings of these stages go, by prompt. Raises OutputError."""
    folder = job.save_embeds
    if folder is None:
        return {}
    files.make_folder(folder, "--save-embeds")
    return {name: _target(job, folder / f"{name}.safetensors") for name in job.params.prompts_of(stages)}


def _save_embeds(targets: Mapping[str, Path], job: Job, picture: Picture, bench: Workbench, account: Account) -> None:
    for name, path in targets.items():
        files.publish(path, bench.embeds_file(name, picture, job.params, account))


def frame_path(job: Job, level: int) -> Path:
    """Where the picture of a level of the inversion goes, if they are wanted."""
    stem = "picture" if job.input == files.STANDARD_STREAM else job.input.stem
    return (job.frames or Path()) / f"{stem}-{level:03}.png"


def _frames_targets(job: Job) -> list[Path]:
    """Where the levels of the inversion go, the clean one first. Raises OutputError."""
    if job.frames is None:
        return []
    files.make_folder(job.frames, "--frames")
    levels = levels_up_to(job.params.strength, job.params.steps) + 1
    return [_target(job, frame_path(job, level)) for level in range(levels)]


def _save_frames(targets: list[Path], latents: Latents, bench: Workbench, account: Account) -> None:
    if targets:
        for level, (path, pixels) in enumerate(zip(targets, bench.frames(latents, account), strict=True)):
            record = artefacts.record("frame", {**latents.made, "level": level})
            files.publish(path, images.encode_png(pixels, record))


def made_by_us(path: Path) -> bool:
    """Whether diffedit wrote the file, by what the file itself says."""
    return path.is_file() and read_record(path) is not None


def read_record(path: Path) -> dict[str, Any] | None:
    """How a mask, latents file or edited picture was made, or None."""
    try:
        return artefacts.read_packed_record(path)
    except artefacts.UNREADABLE:
        return images.read_record(path)


def _result(job: Job, picture: Picture, bench: Workbench, account: Account, *, output: Path, **more: Any) -> Result:
    more = {"outputs": (str(output),)} | more
    return Result(
        status="done",
        input=str(job.input),
        output=str(output),
        model=bench.folder.name,
        device=bench.device,
        seed=job.params.seed,
        evaluations=account.evaluations,
        cache=account.cache,
        seconds=account.seconds,
        warnings=(*picture.warnings, *account.warnings),
        **more,
    )


def _failed(job: Job, code: int, message: str) -> Result:
    return Result(status="failed", input=str(job.input), seed=job.params.seed, error={"code": code, "message": message})
