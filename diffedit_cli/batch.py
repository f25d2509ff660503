"""Pictures -> jobs -> results: what each command does to one picture, and to many, failures kept apart."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diffedit_cli import artefacts, errors, files, formats, limits, review
from diffedit_cli.errors import DiffEditError, OutputError, UsageError, Withheld
from diffedit_cli.images import Picture
from diffedit_cli.params import AUTO, Params, levels_up_to
from diffedit_cli.prompts import Embeds
from diffedit_cli.report import Result

if TYPE_CHECKING:
    from diffedit_cli.account import Account
    from diffedit_cli.artefacts import Latents, Mask
    from diffedit_cli.composition import Edited
    from diffedit_cli.limits import Limits
    from diffedit_cli.stages import Workbench

T = TypeVar("T")
OpenWorkbench = Callable[[], "Workbench"]  # called once inputs and outputs are known to be good: it imports torch


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
    written_before: bool = False  # by an earlier run, whatever the outputs say themselves

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
        return {kind: review.place(kind, path, _stem(self)) for kind, path in given.items() if path is not None}


def mask(job: Job, workbench: OpenWorkbench) -> Result:
    """Finds the mask and writes it. Raises DiffEditError."""
    picture = _picture(job)
    allowed = limits.load(picture, job.within, job.exclude, job.box, job.point, job.max_pixels)
    output = _target(job, job.output or _beside(job.input, ".mask.png"))
    shows = _shows_targets(job, [output])
    embeds = _embeds_targets(job, ["mask"])
    bench = workbench()
    account = bench.open_account()
    found = bench.mask(picture, job.params, account, allowed)
    shown = _shown(shows, job, picture, found)
    _save_embeds(embeds, job, picture, bench, account)
    files.publish(output, artefacts.pack_mask(found))
    _publish(shown)
    return _result(job, picture, bench, account, output=output, mask=str(output), mask_area=found.share)


def invert(job: Job, workbench: OpenWorkbench) -> Result:
    """Inverts the picture and writes its latents. Raises DiffEditError."""
    picture = _picture(job)
    output = _target(job, job.output or _beside(job.input, ".latents.safetensors"))
    embeds = _embeds_targets(job, ["invert"])
    frames = _frames_targets(job)
    bench = workbench()
    account = bench.open_account()
    latents = bench.invert(picture, job.params, account)
    _save_embeds(embeds, job, picture, bench, account)
    _save_frames(frames, job, latents, bench, account)
    files.publish(output, artefacts.pack_latents(latents))
    return _result(job, picture, bench, account, output=output)


@dataclass(frozen=True)
class Opened:
    """What an edit needs, read and checked: all that can be wrong with its files is said before the network works."""

    picture: Picture
    mask: Mask | None
    latents: Latents | None
    allowed: Limits
    outputs: list[Path]
    format: str
    shows: dict[str, Path]
    embeds: dict[str, Path]
    frames: list[Path]


def edit(job: Job, workbench: OpenWorkbench) -> Result:
    """Edits the picture, computing what of mask and latents is not given. Raises DiffEditError.

    Of an edit that is withheld nothing is written, not even its mask.
    """
    return paint(job, open_edit(job), workbench)()


def open_edit(job: Job) -> Opened:
    """Reads the files of an edit and finds its outputs' names. Raises DiffEditError."""
    picture = _picture(job)
    given_mask = artefacts.load_mask(job.mask, job.params.soft, job.max_pixels) if job.mask else None
    given_latents = artefacts.load_latents(job.latents) if job.latents else None
    allowed = limits.load(picture, job.within, job.exclude, job.box, job.point, job.max_pixels)
    extension = formats.default_extension(picture)
    outputs = numbered(job.output or _beside(job.input, f".edited{extension}"), job.params)
    for output in outputs:
        _target(job, output, job.chosen_by)
    chosen = formats.output_format(outputs[0], picture)
    picture = formats.fitted(picture, chosen)
    if job.mask_output is not None:
        _target(job, job.mask_output, job.chosen_by)
    shows = _shows_targets(job, [*outputs, *job.written])
    embeds = _embeds_targets(job, job.stages)
    return Opened(picture, given_mask, given_latents, allowed, outputs, chosen, shows, embeds, _frames_targets(job))


def paint(job: Job, opened: Opened, workbench: OpenWorkbench) -> Callable[[], Result]:
    """All of an edit that the model does; what is returned writes the results. Both raise DiffEditError."""
    bench, picture = workbench(), opened.picture
    account = bench.open_account()
    variants = bench.edit(picture, job.params, account, opened.mask, opened.latents, opened.allowed)
    first, changed = variants[0], artefacts.together([one.mask for one in variants])
    _save_embeds(opened.embeds, job, picture, bench, account)
    if first.latents is not None:
        _save_frames(opened.frames, job, first.latents, bench, account)

    def save() -> Result:
        data = [formats.encode(one.picture, opened.format, one.record if job.metadata else None) for one in variants]
        shown = _shown(opened.shows, job, picture, first.mask, variants)
        if job.mask_output is not None:
            files.publish(job.mask_output, artefacts.pack_mask(changed, telling=job.metadata))
        for output, picture_data in zip(opened.outputs, data, strict=True):
            files.publish(output, picture_data)
        _publish(shown)
        mask_file = job.mask or job.mask_output
        return _result(
            job,
            picture,
            bench,
            account,
            output=opened.outputs[0],
            outputs=tuple(map(str, opened.outputs)),
            mask=str(mask_file) if mask_file else None,
            mask_area=changed.share,
            **({"seed": first.seed} if job.params.best else {}),
        )

    return save


def each(
    jobs: Iterable[Job],
    command: Callable[[Job, OpenWorkbench], Result],
    workbench: OpenWorkbench,
    *,
    on_bug: Callable[[str], Any],
) -> Iterator[Result]:
    """Results in order; a picture that fails gives a failed result and the next begins. Bugs go to `on_bug`, too."""
    for job in jobs:
        yield attempted(job, lambda job=job: command(job, workbench), on_bug)  # type: ignore[misc]


def attempted(job: Job, call: Callable[[], T], on_bug: Callable[[str], Any]) -> T | Result:
    """What `call` returns, or a failed result in its place."""
    try:
        return call()
    except DiffEditError as error:
        failed = failed_result(job, error.code, str(error))
        return replace(failed, status="withheld") if isinstance(error, Withheld) else failed
    except Exception as error:
        if errors.is_out_of_memory(error):
            return failed_result(job, errors.DeviceError.code, errors.OUT_OF_MEMORY)
        on_bug(traceback.format_exc())
        return failed_result(job, DiffEditError.code, bug_message(error))


def bug_message(error: BaseException) -> str:
    return (
        f"Something went wrong that should not ({type(error).__name__}: {error}); "
        "run it again with --verbose and report what it prints."
    )


def check_distinct(targets: Iterable[tuple[Path, Path]], remedy: str = "do them one by one, with -o or --out") -> None:
    """Raises UsageError when two of the (input, output) pairs have the same output."""
    taken: dict[Path, Path] = {}
    for source, target in targets:
        if (other := taken.setdefault(target, source)) is not source:
            raise UsageError(f"{other} and {source} would both write {target}; {remedy}.")


def check_together(jobs: Sequence[Job]) -> None:
    """Raises for what is wanted beside the results, if it is misnamed, the same for several, or one of the pictures."""
    if len(jobs) > 1 and any(job.save_embeds and job.params.caption == AUTO for job in jobs):
        raise UsageError("--save-embeds with --caption auto goes with one picture: each has a caption of its own.")
    check_distinct((job.input, frame_path(job, 0)) for job in jobs if job.frames is not None)
    inputs = {files.resolved(path) for job in jobs for path in job.inputs if path != files.STANDARD_STREAM}
    for job in jobs:
        if job.sheet is not None and (job.params.variants < 2 or job.params.best):
            remedy = "leave out --best" if job.params.best else "ask for them with --variants"
            raise UsageError(f"--sheet shows several results side by side; {remedy}.")
        for kind, path in job.shows.items():
            if files.resolved(path) in inputs:
                raise OutputError(f"--{kind} {path} is also an input; inputs are never replaced: choose another name.")
    for kind in review.KINDS:
        shown = [(job.input, job.shows[kind]) for job in jobs if kind in job.shows]
        check_distinct(shown, "name a folder with --preview" if kind == "preview" else "do them one by one")
    check_distinct((job.input, path) for job in jobs for path in (*job.shows.values(), *job.written))


def expected(command: str, job: Job) -> list[Path]:
    """What a single command writes, as far as names tell."""
    endings = {"mask": ".mask.png", "invert": ".latents.safetensors", "edit": f".edited{written_extension(job.input)}"}
    output = job.output or _beside(job.input, endings[command])
    return numbered(output, job.params) if command == "edit" else [output]


def numbered(output: Path, params: Params) -> list[Path]:
    """Where the variants go: cat.png, cat-2.png, cat-3.png ..."""
    count = 1 if params.best else params.variants
    others = [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(2, count + 1)]
    return [output, *others]


def written_extension(path: Path) -> str:
    return path.suffix if path.suffix.lower() in formats.EXTENSIONS else ".png"


def _picture(job: Job) -> Picture:
    """As its results are to have it."""
    picture = formats.load(job.input, job.max_pixels)
    return picture.stripped() if job.strip_metadata else picture


def _beside(path: Path, ending: str) -> Path:
    return files.STANDARD_STREAM if path == files.STANDARD_STREAM else path.with_name(path.stem + ending)


def _stem(job: Job) -> str:
    return "picture" if job.input == files.STANDARD_STREAM else job.input.stem


def _target(job: Job, path: Path, option: str = "-o") -> Path:
    ours = job.written_before or artefacts.made_by_us(path)
    files.check_target(path, inputs=job.inputs, ours=ours, force=job.force, option=option)
    return path


def _shows_targets(job: Job, others: Iterable[Path]) -> dict[str, Path]:
    """Where what people want to look at goes, by kind, apart from the other outputs. Raises UsageError, OutputError."""
    shows, taken = job.shows, dict.fromkeys((files.resolved(path) for path in others), "another output")
    for kind, path in shows.items():
        if path != getattr(job, kind):
            files.make_folder(path.parent, f"--{kind}")
        _target(job, path, f"--{kind}")
        if (other := taken.setdefault(files.resolved(path), f"--{kind}")) != f"--{kind}":
            raise UsageError(f"--{kind} and {other} would both write {path}; give each its own name.")
    return shows


def _shown(
    shows: Mapping[str, Path], job: Job, picture: Picture, mask: Mask, variants: Sequence[Edited] = ()
) -> list[tuple[Path, bytes]]:
    """What people want to look at, as files. Without metadata they say no more than that they are ours."""
    made: Mapping[str, Any] = variants[0].record if variants else mask.record()
    results = [one.picture for one in variants]
    files_to_be = []
    for kind, path in shows.items():
        about = {**made, "variants": job.params.variants} if kind == "sheet" else made
        record = {**(about if job.metadata else {}), **artefacts.record(kind, {})}
        files_to_be.append((path, review.encoded(kind, path, picture, mask, results, job.params.seed, record)))
    return files_to_be


def _publish(shown: Iterable[tuple[Path, bytes]]) -> None:
    for path, data in shown:
        files.publish(path, data)


def _embeds_targets(job: Job, stages: Iterable[str]) -> dict[str, Path]:
    """Where the embeddings of these stages go, by prompt. Raises OutputError."""
    folder = job.save_embeds
    if folder is None:
        return {}
    files.make_folder(folder, "--save-embeds")
    return {name: _target(job, folder / f"{name}.safetensors") for name in job.params.prompts_of(stages)}


def _save_embeds(targets: Mapping[str, Path], job: Job, picture: Picture, bench: Workbench, account: Account) -> None:
    for name, path in targets.items():
        files.publish(path, bench.embeds_file(name, picture, job.params, account, job.metadata))


def frame_path(job: Job, level: int) -> Path:
    """Where the picture of a level of the inversion goes, if they are wanted."""
    return (job.frames or Path()) / f"{_stem(job)}-{level:03}.png"


def _frames_targets(job: Job) -> list[Path]:
    """Where the levels of the inversion go, the clean one first. Raises OutputError."""
    if job.frames is None:
        return []
    files.make_folder(job.frames, "--frames")
    levels = levels_up_to(job.params.strength or 1.0, job.params.steps) + 1  # the model may leave some out
    return [_target(job, frame_path(job, level)) for level in range(levels)]


def _save_frames(targets: list[Path], job: Job, latents: Latents, bench: Workbench, account: Account) -> None:
    if targets:
        made = latents.made if job.metadata else {}
        for level, (path, pixels) in enumerate(zip(targets, bench.frames(latents, account), strict=False)):
            record = artefacts.record("frame", {**made, "level": level})
            files.publish(path, formats.encode_png(pixels, record))


def _result(job: Job, picture: Picture, bench: Workbench, account: Account, *, output: Path, **more: Any) -> Result:
    more = {"outputs": (str(output),), "seed": job.params.seed, **more}
    return Result(
        status="done",
        input=str(job.input),
        output=str(output),
        model=bench.folder.name,
        device=bench.device,
        preview=str(job.shows["preview"]) if job.preview else None,
        evaluations=account.evaluations,
        cache=account.cache,
        seconds=account.seconds,
        warnings=(*picture.warnings, *account.warnings),
        region=account.region,
        evidence=None if account.gain is None else round(account.gain, 3),
        identity=job.identity,
        **_prompts(job),
        **more,
    )


def failed_result(job: Job, code: int, message: str) -> Result:
    said = {"code": code, "message": message}
    return Result(status="failed", input=str(job.input), seed=job.params.seed, error=said, **_prompts(job))


def skipped_result(job: Job) -> Result:
    """Of a job whose outputs an earlier run made, from the same and by the same."""
    outputs = numbered(job.written[0], job.params)
    mask = str(job.mask or job.mask_output) if job.mask or job.mask_output else None
    return Result(
        status="skipped",
        input=str(job.input),
        output=str(outputs[0]),
        outputs=tuple(map(str, outputs)),
        mask=mask,
        seed=job.params.seed,
        identity=job.identity,
        **_prompts(job),
    )


def _prompts(job: Job) -> dict[str, Any]:
    return {"from_": str(job.params.from_), "to": str(job.params.to)}
