"""Networks of transformers that find a thing by words: CLIPSeg, and Grounding DINO whose boxes SAM 2 outlines.

Pictures are prepared here and not by the image processors of transformers, some of which need torchvision.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# of ImageNet's colours, which all three are trained on
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
SHORTER, LONGER = 800, 1333  # pixels: Grounding DINO sees the shorter side at the first, the longer one at most at this
LEAST_SCORE = 0.35  # of a box that counts (box_threshold of Grounding DINO's authors)
MOST_BOXES = 20  # the best ones count: each costs a mask


class Segmenter(Protocol):
    """Finds a thing by words."""

    def probabilities(self, picture: Image.Image, words: str) -> Tensor:
        """Returns how probably each place of a picture shows what the words say.

        Args:
            picture: RGB picture.
            words: What to look for, such as "the cat on the left".

        Returns:
            (h, w) in [0, 1], stretched over the whole picture; 0 everywhere if nothing is found.
        """


class ClipSeg:
    """CLIPSeg (arXiv:2112.10003): a decoder on CLIP that marks the places which fit the words."""

    side = 352  # of its training pictures
    threshold = 0.3  # of the probability: the authors' for phrases (table 1)

    def __init__(self, tokenizer: Any, network: Any) -> None:
        self.tokenizer, self.network = tokenizer, network

    def probabilities(self, picture: Image.Image, words: str) -> Tensor:
        """Returns the probabilities (352, 352); see `Segmenter`."""
        limit = self.network.config.text_config.max_position_embeddings
        tokens = self.tokenizer(words, return_tensors="pt", truncation=True, max_length=limit)
        with torch.inference_mode():
            logits: Tensor = self.network(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                pixel_values=prepared(picture, (self.side, self.side)),
            ).logits
        return logits.reshape(logits.shape[-2:]).sigmoid().float()


class GroundedSam:
    """Grounding DINO (arXiv:2303.05499) finds boxes of things by words, and SAM 2 (arXiv:2408.00714) their outlines."""

    threshold = 0.5  # of the probability: SAM 2's logit 0

    def __init__(self, tokenizer: Any, detector: Any, outliner: Any) -> None:
        self.tokenizer, self.detector, self.outliner = tokenizer, detector, outliner
        self.side = int(np.max(outliner.config.prompt_encoder_config.image_size))

    def probabilities(self, picture: Image.Image, words: str) -> Tensor:
        """Returns the largest probability among the things found, (256, 256) with the real SAM 2; see `Segmenter`."""
        boxes = self.boxes(picture, words)
        if not len(boxes):
            return torch.zeros(1, 1)
        with torch.inference_mode():
            masks: Tensor = self.outliner(
                pixel_values=prepared(picture, (self.side, self.side)),
                input_boxes=boxes[None] * self.side,
                multimask_output=False,  # a box leaves no doubt about the part that is meant
            ).pred_masks
        return masks.flatten(0, 2).sigmoid().amax(dim=0).float()

    def boxes(self, picture: Image.Image, words: str) -> Tensor:
        """Returns the boxes (N, 4) of what the words say: left, top, right, bottom in [0, 1] of the picture's sides."""
        phrase = words.lower().strip().rstrip(".") + "."  # lower case and a full stop, as in training
        limit = self.detector.config.max_text_len
        tokens = self.tokenizer(phrase, return_tensors="pt", truncation=True, max_length=limit)
        with torch.inference_mode():
            found = self.detector(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                token_type_ids=torch.zeros_like(tokens["input_ids"]),
                pixel_values=prepared(picture, detection_size(picture.size)),
            )
        scores = found.logits[0].sigmoid().amax(dim=-1)
        if scores.isnan().any():  # which would be taken for nothing found
            return torch.full((1, 4), torch.nan)
        best = [int(one) for one in scores.argsort(descending=True)[:MOST_BOXES] if scores[one] > LEAST_SCORE]
        middle, sides = found.pred_boxes[0, best].float().chunk(2, dim=-1)
        return torch.cat([middle - sides / 2, middle + sides / 2], dim=-1).clamp(0, 1)


def detection_size(size: tuple[int, int]) -> tuple[int, int]:
    """Returns the width and height at which Grounding DINO sees a picture of this width and height."""
    shorter, longer = sorted(size)
    scale = min(SHORTER / shorter, LONGER / longer)
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def prepared(picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """Returns an RGB picture as the networks see it, (1, 3, height, width) for a `size` of width and height."""
    pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
    scaled = (pixels - MEAN) / DEVIATION
    return torch.from_numpy(scaled.transpose(2, 0, 1)[None].copy())
