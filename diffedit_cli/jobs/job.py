"""A job: one picture to be processed by a command, and the files that the job reads and writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diffedit_cli.images import previews
from diffedit_cli.jobs.output_names import variant_paths
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.prompts import Embeds
from diffedit_cli.storage import files
from diffedit_cli.storage.ownership import Ownership

if TYPE_CHECKING:
    from diffedit_cli.pipeline.edit_pipeline import EditPipeline

OpenPipeline = Callable[[], "EditPipeline"]  # imports torch: call it after checking inputs and outputs


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture to be processed by a command. Paths may be `-`; `output` None means the command's default name."""

    input: Path
    url: str = ""  # source of a remote input; `input` is only a name before the fetch, then the path of the copy
    output: Path | None = None
    params: Params
    force: bool = False
    metadata: bool = True
    strip_metadata: bool = False  # also remove the metadata of the input from results
    max_pixels: int = files.MAX_PIXELS
    within: Path | None = None
    exclude: Path | None = None
    box: tuple[int, ...] | None = None
    point: tuple[int, ...] | None = None
    mask: Path | None = None  # an existing mask, for an edit, or as an operand of --mask-method
    latents: Path | None = None  # latents file of an existing inversion, for an edit
    mask_output: Path | None = None  # where an edit also writes its mask
    frames: Path | None = None  # folder for the decoded levels of the inversion
    save_embeds: Path | None = None  # folder for the prompt embeddings
    preview: Path | None = None  # preview file, or folder for preview files
    overlay: Path | None = None
    compare: Path | None = None
    sheet: Path | None = None
    chosen_by: str = "-o"  # the option that sets the output, for messages
    mask_chosen_by: str = "--mask-output"  # the same for the mask's
    identity: str | None = None  # digest of everything the result depends on, for skipping a job that is done
    before: str | None = None  # the identity that an earlier run recorded, if all its outputs still exist
    where: str = ""  # the line of the job file, for messages
    label: str | None = None  # base name of previews and frames in place of the input's stem
    ownership: Ownership = field(default_factory=Ownership, compare=False)  # shared by all jobs of the command

    @property
    def inputs(self) -> list[Path]:
        """Local files that the job reads and must not change."""
        given = (None if self.url else self.input, self.mask, self.latents, self.within, self.exclude)
        embeds = [prompt.path for prompt in vars(self.params).values() if isinstance(prompt, Embeds)]
        return [path for path in given if path is not None] + embeds

    @property
    def stages(self) -> list[str]:
        """Stages still to compute: those without a provided file."""
        given = {"mask": None if self.params.draws else self.mask, "invert": self.latents, "edit": None}
        return [stage for stage, file in given.items() if file is None]

    @property
    def mask_file(self) -> Path | None:
        """The file of the edit's mask: the provided one, or the one to write."""
        return self.mask_output if self.params.draws else self.mask or self.mask_output

    @property
    def output_paths(self) -> list[Path]:
        """Paths of the results, if `output` is set, and of the mask, if `mask_output` is set."""
        results = variant_paths(self.output, self.params) if self.output else []
        return results + ([self.mask_output] if self.mask_output else [])

    @property
    def shows(self) -> dict[str, Path]:
        """Paths of the preview, overlay, comparison and sheet to write, by kind. Raises UsageError for a wrong name."""
        given = {kind: getattr(self, kind) for kind in previews.KINDS}
        return {kind: previews.path_of(kind, path, self.base_name) for kind, path in given.items() if path is not None}

    @property
    def base_name(self) -> str:
        """Base name of the preview and frame files; may begin with folders."""
        return self.label or ("picture" if self.input == files.STANDARD_STREAM else self.input.stem)
