"""A job: one picture's way through a command, and the files that it reads and writes."""

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

OpenPipeline = Callable[[], "EditPipeline"]  # called once inputs and outputs are known to be good: it imports torch


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture's way through a command. Paths may be `-`, and `output` None for the command's default name."""

    input: Path
    url: str = ""  # where the input is fetched from: until then it is only a name, then a copy
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
    where: str = ""  # the line of a job file that says it, for messages
    label: str | None = None  # what previews and frames are called by, for the input's stem
    ownership: Ownership = field(default_factory=Ownership, compare=False)  # of all that the command writes

    @property
    def inputs(self) -> list[Path]:
        """The files of this machine that are read and have to stay as they are."""
        given = (None if self.url else self.input, self.mask, self.latents, self.within, self.exclude)
        embeds = [prompt.path for prompt in vars(self.params).values() if isinstance(prompt, Embeds)]
        return [path for path in given if path is not None] + embeds

    @property
    def stages(self) -> list[str]:
        """Stages that are still to compute: those without a given file."""
        given = {"mask": self.mask, "invert": self.latents, "edit": None}
        return [stage for stage, file in given.items() if file is None]

    @property
    def written(self) -> list[Path]:
        """The results and the mask, as far as their names are given."""
        results = variant_paths(self.output, self.params) if self.output else []
        return results + ([self.mask_output] if self.mask_output else [])

    @property
    def shows(self) -> dict[str, Path]:
        """Where what people want to look at goes, by its kind in review. Raises UsageError."""
        given = {kind: getattr(self, kind) for kind in previews.KINDS}
        return {kind: previews.place(kind, path, self.called) for kind, path in given.items() if path is not None}

    @property
    def called(self) -> str:
        """What the files that show it are called by, perhaps with folders in front."""
        return self.label or ("picture" if self.input == files.STANDARD_STREAM else self.input.stem)
