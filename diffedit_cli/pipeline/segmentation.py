"""Masks by words: finds the segmenter of --segmenter, runs it once for each picture and words, keeps what it says.

It runs on the CPU in float32, so that the mask does not depend on the device of the edit.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffedit_cli.engine.networks.segmenters import ClipSeg, GroundedSam, Segmenter
from diffedit_cli.errors import ModelError, UsageError, reason
from diffedit_cli.images.pictures import Picture
from diffedit_cli.models import configs, transformers_folder
from diffedit_cli.models.names import CLIP, CLIPSEG, DETECTOR, DINO, OUTLINER, SAM, SEGMENTERS
from diffedit_cli.models.transformers_folder import JOINED, TransformersFolder
from diffedit_cli.pipeline.parameter import AUTO

SEES = "sam2_hiera_det_model"
PARTS = {  # kinds of the networks inside a model, by their place in its settings
    DINO: {"backbone_config": "swin", "text_config": "bert"},
    **{one: {"vision_config": "sam2_vision_model", "vision_config.backbone_config": SEES} for one in SAM},
}
MOST_SIDE, MOST_CELLS = 2048, 128  # pixels and cells of a side at which a SAM 2 sees pictures; the real one 1024 and 64
MOST_WINDOW = 64  # cells of a side of Swin's windows, whose pairs of cells are numbered; the real ones 7 and 12


@dataclass(frozen=True)
class FoundSegmenter:
    """A segmenter on this machine, checked but not loaded: one model, or one that finds boxes and one that outlines."""

    name: str
    models: tuple[TransformersFolder, ...]
    digest: str

    @property
    def threshold(self) -> float:
        """The probability from which a place belongs to the thing."""
        return ClipSeg.threshold if self.models[0].architecture == CLIP else GroundedSam.threshold

    @property
    def side(self) -> int:
        """The pixels of a side at which it sees a picture."""
        return ClipSeg.side if self.models[0].architecture == CLIP else _side(self.models[-1])

    def load(self) -> Segmenter:
        """Returns the segmenter with its networks. Raises ModelError."""
        import transformers

        first = self.models[0]
        if first.architecture == CLIP:
            network = first.network(transformers.CLIPSegForImageSegmentation)
            return ClipSeg(first.reader(transformers.CLIPTokenizer), network)
        detector = first.network(transformers.GroundingDinoForObjectDetection)
        outliner = self.models[1].network(transformers.Sam2Model)
        return GroundedSam(first.reader(transformers.BertTokenizer), detector, outliner)


def find(name: str, memo: Path) -> FoundSegmenter:
    """Returns a segmenter by name if it is on this machine; AUTO: the best one here. `memo` keeps digests of files.

    A Grounding DINO alone is completed by the SAM 2 that has a short name. Raises ModelError, or UsageError for models
    that do not segment together.
    """
    if name == AUTO:
        name = _best_here()
    first, *others = (transformers_folder.find(one, CLIP, DINO, *SAM) for one in transformers_folder.joined(name))
    if first.architecture in SAM:
        raise UsageError(
            f"{first.name} outlines boxes and reads no words; name what finds them before it: "
            f"--segmenter {DETECTOR}{JOINED}{first.name}."
        )
    if first.architecture == DINO and not others:
        others, name = [transformers_folder.find(OUTLINER, *SAM)], f"{name}{JOINED}{OUTLINER}"
    if (first.architecture == CLIP and others) or len(others) > 1 or any(one.architecture not in SAM for one in others):
        raise UsageError(
            f"--segmenter {name} joins models that do not segment together; name one CLIPSeg, or a Grounding DINO and "
            f"a SAM 2, such as {DETECTOR}{JOINED}{OUTLINER}."
        )
    for model in (first, *others):
        _check(model)
    digest = hashlib.sha256(" ".join(model.digest(memo) for model in (first, *others)).encode()).hexdigest()
    return FoundSegmenter(name, (first, *others), digest)


def _best_here() -> str:
    pair = (DETECTOR, OUTLINER)
    for names in (pair, (CLIPSEG,)):
        if all(transformers_folder.locate(name) is not None for name in names):
            return JOINED.join(names)
    sizes = {name: f"{SEGMENTERS[name].size / 1e9:.1f} GB" for name in SEGMENTERS}
    raise ModelError(
        f"No segmenter is on this machine; download one with: diffedit models pull {CLIPSEG} ({sizes[CLIPSEG]}), or, "
        f"for exact outlines, both of: diffedit models pull {DETECTOR} ({sizes[DETECTOR]}), diffedit models pull "
        f"{OUTLINER} ({sizes[OUTLINER]})."
    )


def _check(model: TransformersFolder) -> None:
    """Raises ModelError for settings that name other networks than those of the model, or take too much memory."""
    said = model.settings()
    for place, kind in PARTS.get(model.architecture, {}).items():
        part = _inside(said, place)
        if part.get("model_type", kind) != kind or part.get("backbone") or said.get("backbone"):
            raise ModelError(
                f"The model {model.name} has a {str(part.get('model_type'))[:80]} as its {place}, and only {kind} can "
                "be used; name another model."
            )
    backbone = _inside(_inside(said, "vision_config") if model.architecture in SAM else said, "backbone_config")
    for name in ("window_size", "patch_padding", "depths"):  # no weight would tell that they are too large
        if not _fits(backbone.get(name, 1)):
            raise ModelError(
                f"The model {model.name} is damaged: its {name} is not of whole numbers up to {MOST_WINDOW}; get it "
                "again."
            )
    if model.architecture in SAM and not _side(model) <= min(MOST_SIDE, MOST_CELLS * _cell(model)):
        raise ModelError(
            f"The model {model.name} is damaged: it sees pictures of {_side(model)} pixels in cells of {_cell(model)}; "
            "get it again."
        )


def _fits(number: Any) -> bool:
    """Whether a setting is a whole number up to MOST_WINDOW, or a list of them."""
    if isinstance(number, list):
        return all(map(_fits, number))
    return type(number) is int and number <= MOST_WINDOW


def _side(model: TransformersFolder) -> int:
    return configs.largest(_inside(model.settings(), "prompt_encoder_config").get("image_size") or 1024)


def _cell(model: TransformersFolder) -> int:
    return configs.largest(_inside(model.settings(), "prompt_encoder_config").get("patch_size") or 16)


def _inside(said: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """Returns the settings at a place; none if they are left out."""
    for name in place.split("."):
        said = found if isinstance(found := said.get(name), dict) else {}
    return said


@dataclass
class Segmenters:
    """Finds and runs segmenters, and keeps the last one loaded for the next picture. Safe for several threads."""

    _found: dict[str, FoundSegmenter] = field(default_factory=dict)
    _loaded: tuple[FoundSegmenter, Segmenter] | None = None
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def find(self, name: str, memo: Path) -> FoundSegmenter:
        """Returns a segmenter as `find` does, looked for once for all pictures."""
        if name not in self._found:
            self._found[name] = find(name, memo)
        return self._found[name]

    def loaded(self, found: FoundSegmenter) -> Segmenter:
        """Returns a segmenter with its networks. Raises ModelError."""
        with self._one_at_a_time:
            if self._loaded is None or self._loaded[0] != found:
                self._loaded = None  # frees its memory before the other one takes some
                self._loaded = found, found.load()
            return self._loaded[1]

    def probabilities(self, found: FoundSegmenter, picture: Picture, words: str) -> NDArray[np.float32]:
        """Returns how probably each place shows what the words say, (h, w) in [0, 1]. Raises ModelError."""
        segmenter = self.loaded(found)
        try:
            with self._one_at_a_time:
                seen = segmenter.probabilities(picture.on_white(), words).numpy()
        except MemoryError:
            raise
        except Exception as error:  # a stranger's settings can make it fail in many ways
            raise ModelError(f"The segmenter {found.name} fails ({reason(error)}); get it again.") from error
        if not np.isfinite(seen).all():
            raise ModelError(f"The segmenter {found.name} gives values that are not finite; its files may be damaged.")
        return seen
