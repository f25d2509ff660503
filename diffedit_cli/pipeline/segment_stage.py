"""Masks of what words say, as a segmenter outlines it, each map of it with its own cache entry."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from diffedit_cli.engine import mask_refinement
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline.mask_proposal import MaskProposal, as_grey, look_closer
from diffedit_cli.pipeline.params import Params
from diffedit_cli.pipeline.segmentation import FoundSegmenter
from diffedit_cli.pipeline.stage_context import StageContext
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.artifacts import Arrays

KIND = "segment"


@dataclass(frozen=True)
class SegmentStage:
    """Finds masks by words with the segmenter of the parameters."""

    context: StageContext
    params: Params

    @property
    def segmenter(self) -> FoundSegmenter:
        """The segmenter. Raises ModelError if it is not on this machine, UsageError for a wrong name."""
        return self.context.segmenters.find(self.params.segmenter, self.context.folder.memo)

    def find(self, picture: Picture, words: str, stats: EditStats) -> MaskProposal:
        """Returns the outline of what words say in a picture, searched again in crops; --grow widens it if given."""
        segmenter, params = self.segmenter, self.params

        def look(part: Picture) -> MaskProposal:
            inputs = {"picture": part.digest, "segmenter": segmenter.digest, "words": words}

            def compute(_: Collection[str]) -> Mapping[str, Arrays]:
                return {KIND: {KIND: self.context.segmenters.probabilities(segmenter, part, words)}}

            seen = self.context.cache.get_or_compute("mask", {KIND: inputs}, stats, compute)[KIND][KIND]
            size, grow = part.size[::-1], (params.grow or 0.0) * max(part.size) / self.context.cells(part)
            M = mask_refinement.outline(torch.from_numpy(seen), size, segmenter.threshold, grow, params.soft)
            shown = as_grey(M)
            return MaskProposal(shown, shown, seen)

        return look_closer(look, picture, params.zoom_factor, segmenter.side)
