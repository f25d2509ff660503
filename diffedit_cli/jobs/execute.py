"""Executes a command on one picture: reads its files, calls the pipeline and writes the results."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit_cli.errors import OutputError
from diffedit_cli.images import codecs, masks, previews
from diffedit_cli.images.pictures import Picture
from diffedit_cli.jobs import output_names, outputs
from diffedit_cli.jobs.job import Job, OpenPipeline
from diffedit_cli.jobs.outputs import Targets
from diffedit_cli.pipeline import latents_files, mask_limits
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.results.result import Result
from diffedit_cli.storage import files, paths, records

if TYPE_CHECKING:
    from diffedit_cli.images.masks import Mask
    from diffedit_cli.pipeline.composition import EditVariant
    from diffedit_cli.pipeline.edit_pipeline import EditPipeline
    from diffedit_cli.pipeline.latents_files import Latents
    from diffedit_cli.pipeline.mask_limits import MaskLimits
    from diffedit_cli.storage.ownership import Target
from diffedit_cli.jobs.outcomes import done_result


def mask(job: Job, open_pipeline: OpenPipeline) -> Result:
    """Computes the mask and writes it. Raises DiffEditError."""
    picture = _picture(job)
    drawn = masks.load_mask(job.mask, job.params.soft, job.max_pixels) if job.mask else None
    allowed = mask_limits.load(picture, job.within, job.exclude, job.box, job.point, job.max_pixels)
    targets = _targets(job, "mask")
    pipeline = open_pipeline()
    stats = EditStats()
    found = pipeline.mask(picture, job.params, stats, allowed, drawn)
    written = dict.fromkeys(targets.results, masks.pack_mask(found)) | _shown(targets, job, picture, found)
    _save_embeds(targets, job, picture, pipeline, stats)
    job.ownership.publish(written)
    output = targets.results[0].path
    return done_result(job, picture, pipeline, stats, output=output, mask=str(output), mask_area=found.share)


def invert(job: Job, open_pipeline: OpenPipeline) -> Result:
    """Inverts the picture and writes its latents. Raises DiffEditError."""
    picture = _picture(job)
    targets = _targets(job, "invert")
    pipeline = open_pipeline()
    stats = EditStats()
    latents = pipeline.invert(picture, job.params, stats)
    _save_embeds(targets, job, picture, pipeline, stats)
    _save_frames(targets, job, latents, pipeline, stats)
    job.ownership.publish(dict.fromkeys(targets.results, latents_files.pack_latents(latents)))
    return done_result(job, picture, pipeline, stats, output=targets.results[0].path)


@dataclass(frozen=True)
class EditInputs:
    """Inputs of an edit, read and checked: errors in its files are raised before the first network evaluation."""

    picture: Picture
    mask: Mask | None
    latents: Latents | None
    allowed: MaskLimits
    format: str
    targets: Targets


@dataclass(frozen=True)
class PaintedEdit:
    """Variants of an edit that the model has computed, not written yet."""

    pipeline: EditPipeline
    stats: EditStats
    variants: Sequence[EditVariant]


def edit(job: Job, open_pipeline: OpenPipeline) -> Result:
    """Edits the picture, and computes the mask and the latents that the job does not provide. Raises DiffEditError.

    If the edit is withheld, nothing is written, not even its mask.
    """
    inputs = read_inputs(job)
    painted = paint(job, inputs, open_pipeline)
    return write(job, inputs, painted)


def read_inputs(job: Job) -> EditInputs:
    """Reads the files of an edit and determines the names of its outputs. Raises DiffEditError."""
    return _opened(job, _targets)


def foresee_edit(job: Job) -> None:
    """Raises the DiffEditError that the files and names of an edit would cause, without writing anything."""
    _opened(job, lambda *named: _foreseen(job, outputs.targets(*named)))


def _opened(job: Job, find: Callable[[Job, str, Sequence[Path]], Targets]) -> EditInputs:
    picture = _picture(job)
    given_mask = masks.load_mask(job.mask, job.params.soft, job.max_pixels) if job.mask else None
    given_latents = latents_files.load_latents(job.latents) if job.latents else None
    allowed = mask_limits.load(picture, job.within, job.exclude, job.box, job.point, job.max_pixels)
    output = job.output or output_names.default_path(job.input, f".edited{codecs.default_extension(picture)}")
    targets, chosen = (
        find(job, "edit", output_names.variant_paths(output, job.params)),
        codecs.output_format(output, picture),
    )
    return EditInputs(codecs.fit_to_format(picture, chosen), given_mask, given_latents, allowed, chosen, targets)


def paint(job: Job, inputs: EditInputs, open_pipeline: OpenPipeline) -> PaintedEdit:
    """Computes an edit with the model, and writes its embeddings and frames, which need it. Raises DiffEditError."""
    pipeline, picture = open_pipeline(), inputs.picture
    stats = EditStats()
    variants = pipeline.edit(picture, job.params, stats, inputs.mask, inputs.latents, inputs.allowed)
    _save_embeds(inputs.targets, job, picture, pipeline, stats)
    if (latents := variants[0].latents) is not None:
        _save_frames(inputs.targets, job, latents, pipeline, stats)
    return PaintedEdit(pipeline, stats, variants)


def write(job: Job, inputs: EditInputs, painted: PaintedEdit) -> Result:
    """Writes the results of an edit, its mask and its previews, after checking all of them. Raises DiffEditError."""
    targets, variants, first = inputs.targets, painted.variants, painted.variants[0]
    changed = masks.union([one.mask for one in variants])
    data = [codecs.encode(one.picture, inputs.format, one.record if job.metadata else None) for one in variants]
    mask = {targets.mask: masks.pack_mask(changed, with_record=job.metadata)} if targets.mask else {}
    results = dict(zip(targets.results, data, strict=True))
    digests = job.ownership.publish(mask | results | _shown(targets, job, inputs.picture, first.mask, variants))
    return done_result(
        job,
        inputs.picture,
        painted.pipeline,
        painted.stats,
        output=targets.results[0].path,
        outputs=tuple(str(one.path) for one in targets.results),
        digests={str(one.path): digests[str(one.path)] for one in (*mask, *results)},
        mask=str(job.mask_file) if job.mask_file else None,
        mask_area=changed.share,
        **({"seed": first.seed} if job.params.best and first.seed is not None else {}),
    )


def _picture(job: Job) -> Picture:
    """Loads the picture, without the input's metadata if results are to have none of it."""
    picture = codecs.load(job.input, job.max_pixels)
    return picture.strip_metadata() if job.strip_metadata else picture


def _targets(job: Job, command: str, results: Sequence[Path] | None = None) -> Targets:
    """Returns the files that the job writes, after creating the folders for embeddings, frames and previews.

    Raises UsageError for a wrong name, OutputError for a file that may not be written.
    """
    targets = outputs.targets(job, command, results)
    job.ownership.reads(job.inputs)
    folders = {one.path.parent: one.option for one in (*targets.embeds.values(), *targets.frames)}
    folders |= {one.path.parent: one.option for kind, one in targets.shows.items() if one.path != getattr(job, kind)}
    for folder, option in folders.items():
        files.make_folder(folder, option)
    for one in targets.everything:
        job.ownership.check(one)
    return targets


def _foreseen(job: Job, targets: Targets) -> Targets:
    """Checks the targets as `_targets` does, but does not create folders. Raises OutputError, UsageError."""
    for target in targets.everything:
        above = next(filter(os.path.lexists, target.path.absolute().parents))
        if not (paths.is_folder(above) and os.access(above, os.W_OK | os.X_OK)):
            raise OutputError(f"{target.path} cannot be written below {above}; choose another with {target.option}.")
        if os.path.lexists(target.path):
            job.ownership.check(target)
    return targets


def _shown(
    targets: Targets, job: Job, picture: Picture, mask: Mask, variants: Sequence[EditVariant] = ()
) -> dict[Target, bytes]:
    """Returns the encoded previews by target. Without metadata, their record shows only that diffedit made them."""
    made: Mapping[str, Any] = variants[0].record if variants else mask.record()
    results = [one.picture for one in variants]
    shown = {}
    for kind, target in targets.shows.items():
        about = {**made, "variants": job.params.variants} if kind == "sheet" else made
        record = {**(about if job.metadata else {}), **records.record(kind, {})}
        shown[target] = previews.encode(kind, target.path, picture, mask, results, job.params.seed, record)
    return shown


def _save_embeds(targets: Targets, job: Job, picture: Picture, pipeline: EditPipeline, stats: EditStats) -> None:
    made = {
        target: pipeline.embeds_file(prompt, picture, job.params, stats, job.metadata)
        for prompt, target in targets.embeds.items()
    }
    job.ownership.publish(made)


def _save_frames(targets: Targets, job: Job, latents: Latents, pipeline: EditPipeline, stats: EditStats) -> None:
    if targets.frames:
        made = latents.made if job.metadata else {}
        for level, (target, pixels) in enumerate(zip(targets.frames, pipeline.frames(latents, stats), strict=False)):
            record = records.record("frame", {**made, "level": level})  # the model may return fewer levels
            job.ownership.publish({target: codecs.encode_png(pixels, record)})
