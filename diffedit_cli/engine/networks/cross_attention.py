"""Where the network looks for words: its cross-attention (arXiv:2208.01626), seen while it predicts as always."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from diffedit_cli.engine.diffedit import resize
from diffedit_cli.engine.interfaces import Embedding, Watcher

CELLS = 16  # a side: of these layers makes LEDITS++ (arXiv:2311.16711) its masks


class Watch:
    """How strongly each cell attends to some tokens of one prompt, averaged over heads, layers and pictures.

    Only the rows of a batch that are told `text` (1, L, D) count, whatever else is predicted beside them.
    """

    def __init__(self, text: Embedding, places: Sequence[int]) -> None:
        self.tokens, self.places = text.tokens, list(places)
        self._sum: Tensor | None = None
        self._count = 0

    def look(self, layer: Any, hidden: Tensor, told: Tensor) -> Tensor | None:
        """Of a call of diffusers' cross-attention `layer`, hidden (B, cells, D) looking at what it is told (B, L, D).

        Gives (B * heads, cells), or None where no row is told the text.
        """
        if told.shape[1:] != self.tokens.shape[1:]:
            return None
        rows = (told == self.tokens.to(told.device)).flatten(1).all(dim=1)
        if not rows.any():
            return None
        query, key = layer.to_q(hidden[rows]), layer.to_k(told[rows])
        weights: Tensor = layer.get_attention_scores(layer.head_to_batch_dim(query), layer.head_to_batch_dim(key))
        return weights[..., self.places].float().mean(dim=-1)

    def add(self, looks: Tensor) -> None:
        """Looks (B * heads, cells) of a call that did not fail."""
        self._sum = looks.sum(dim=0) + (0 if self._sum is None else self._sum)
        self._count += len(looks)

    def map(self, grid: tuple[int, int]) -> Tensor:
        """The mean (h, w) over all that was seen, on the latents' grid; the layers' is coarser by a whole factor."""
        if self._sum is None:
            raise RuntimeError("nothing was predicted for the text that is watched")
        shrink = math.isqrt(grid[0] * grid[1] // len(self._sum))
        looks = (self._sum / self._count).reshape(grid[0] // shrink, grid[1] // shrink)
        return resize(looks, grid)


@contextlib.contextmanager
def watch_attention(unet: nn.Module, watches: Sequence[Watcher | None]) -> Iterator[None]:
    """One call of diffusers' UNet2DConditionModel, whose rows are watched by these, without a change to its output.

    Of a call that fails nothing is seen.
    """
    rows = {watch: [row for row, one in enumerate(watches) if one is watch] for watch in watches if watch is not None}
    looks: list[tuple[Watcher, Tensor]] = []

    def before(layer: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        for watch, own in rows.items():
            look = watch.look(layer, given[0][own], named["encoder_hidden_states"][own])
            if look is not None:
                looks.append((watch, look))

    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers(unet)] if rows else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for watch, look in looks:
        watch.add(look)


def layers(unet: Any) -> list[nn.Module]:
    """The cross-attention of the decoder's block whose grid, at the model's own size, is nearest to CELLS a side.

    The decoder's alone: with the encoder's, or with coarser layers, the built-in model's masks fit objects less.
    """
    blocks = list(unet.up_blocks)
    found: dict[float, list[nn.Module]] = {}
    for depth, block in enumerate(reversed(blocks)):
        cells = unet.config["sample_size"] / 2**depth
        found[abs(math.log(cells / CELLS))] = [layer for name, layer in block.named_modules() if name.endswith("attn2")]
    return found[min(distance for distance, inside in found.items() if inside)]
