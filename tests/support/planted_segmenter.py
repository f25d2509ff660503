"""A segmenter that knows the answers: CLIPSeg's place is taken by maps that a test gives for words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffedit_cli.engine.networks.segmenters import ClipSeg

Answer = Callable[[Image.Image], NDArray[np.float32]]


@dataclass
class Planted:
    """The answer by words, and which words were asked for."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def probabilities(self, picture: Image.Image, words: str) -> Tensor:
        self.asked.append(words)
        blank = np.zeros(picture.size[::-1], np.float32)
        return torch.from_numpy(self.answers[words](picture) if words in self.answers else blank)

    def box(self, words: str, left: int, top: int, right: int, bottom: int) -> None:
        """The words are seen in this box."""

        def answer(picture: Image.Image) -> NDArray[np.float32]:
            found = np.zeros(picture.size[::-1], np.float32)
            found[top:bottom, left:right] = 1
            return found

        self.answers[words] = answer


def plant(patch: pytest.MonkeyPatch) -> Planted:
    """Puts a planted segmenter in the place of every CLIPSeg."""
    planted = Planted()
    patch.setattr(ClipSeg, "probabilities", lambda _, picture, words: planted.probabilities(picture, words))
    return planted
