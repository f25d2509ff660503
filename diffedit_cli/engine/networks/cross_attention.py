"""Records a network's cross-attention to words of a prompt (arXiv:2208.01626) without changing its predictions."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffedit_cli.engine.diffedit import resize
from diffedit_cli.engine.interfaces import Embedding, ModelInput

if TYPE_CHECKING:
    from typing_extensions import Self

CELLS = 16  # side of the attention layers that LEDITS++ (arXiv:2311.16711) makes its masks from


class Watch:
    """Mean attention of each cell to some tokens of one prompt, over heads, layers and pictures.

    Only the rows of a batch that hold the embeddings of this prompt count, whatever the other rows are.
    """

    def __init__(self, text: Embedding, places: Sequence[int]) -> None:
        """Initialises a watch of the tokens at `places` in the prompt embeddings `text` (1, L, D)."""
        self.tokens, self.key = text.tokens, text.key
        self.places = torch.tensor(places, device=text.tokens.device)
        self.looks: list[Tensor] = []
        self._indices: dict[tuple[int, ...], Tensor] = {}

    def twin(self) -> Self:
        """Returns a watch of the same prompt with places of its own, which has seen nothing."""
        twin = copy.copy(self)
        twin.places, twin.looks = self.places.clone(), []
        return twin

    @property
    def length(self) -> int:
        """Number of tokens L of the watched prompt."""
        return self.tokens.shape[1]

    def rows(self, inputs: ModelInput) -> list[int]:
        """Returns the rows of a network input that are assigned to this watch and hold its prompt."""
        own = enumerate(zip(inputs.watches, self._alike(inputs.text), inputs.text.lengths, strict=True))
        return [row for row, (watch, same, length) in own if watch is self and same and length == self.length]

    def index(self, rows: Sequence[int]) -> Tensor:
        """Returns rows as an index on the device, made once: a list would be copied there at each use."""
        if (own := tuple(rows)) not in self._indices:
            self._indices[own] = torch.tensor(own, device=self.places.device)
        return self._indices[own]

    def _alike(self, text: Embedding) -> list[bool]:
        """Returns whether each row holds the watched prompt; with keys, without a question to the device."""
        if self.key is not None and text.key is not None:
            return [key == int(self.key) for key in text.key.tolist()]
        tokens = text.tokens[:, : self.length]
        if tokens.shape[1:] != self.tokens.shape[1:]:
            return [False] * len(tokens)
        alike: list[bool] = (tokens == self.tokens.to(tokens.device)).flatten(1).all(dim=1).tolist()
        return alike

    def look(self, layer: Any, hidden: Tensor, told: Tensor) -> Tensor:
        """Returns the attention in one call of a cross-attention layer.

        Args:
            layer: Attention layer of diffusers.
            hidden: (n, cells, K) hidden states of the layer, K channels.
            told: (n, L, D) prompt embeddings that the layer attends to, those of the watched prompt.

        Returns:
            Attention (n * heads, cells), float32.
        """
        query, key = layer.to_q(hidden), layer.to_k(told)
        weights: Tensor = layer.get_attention_scores(layer.head_to_batch_dim(query), layer.head_to_batch_dim(key))
        return weights[..., self.places].float().mean(dim=-1)

    def add(self, looks: Tensor) -> None:
        """Adds an attention map (n, cells) for each of n rows or heads, of a network call that succeeded."""
        self.looks.append(looks)

    def map(self, grid: tuple[int, int]) -> Tensor:
        """Returns the mean attention (h, w) at the size of the latents; the layers are coarser by a whole factor.

        Raises RuntimeError if the network was not evaluated for the watched prompt.
        """
        if not self.looks:
            raise RuntimeError("the network was not evaluated for the watched prompt")
        whole: Tensor = sum(looks.sum(dim=0) for looks in self.looks)  # type: ignore[assignment]
        shrink = math.isqrt(grid[0] * grid[1] // len(whole))
        mean = whole / sum(map(len, self.looks))
        return resize(mean.reshape(grid[0] // shrink, grid[1] // shrink), grid)


@contextlib.contextmanager
def watch_attention(layers: Callable[[], Sequence[nn.Module]], inputs: ModelInput) -> Iterator[None]:
    """Context for one call of a network that records the attention in its cross-attention layers.

    The output of the network stays the same. A call that fails is not recorded.
    """
    rows = rows_by_watch(inputs)
    looks: list[tuple[Watch, Tensor]] = []

    def before(layer: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        for watch, own in rows.items():
            index = watch.index(own)
            told = named["encoder_hidden_states"][index, : watch.length]
            looks.append((watch, watch.look(layer, given[0][index], told)))

    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers()] if rows else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for watch, look in looks:
        watch.add(look)


def of_blocks(blocks: Sequence[Any], numbers: Sequence[int], layer: str) -> list[Any]:
    """Returns a layer of the chosen blocks of a transformer; of one with fewer blocks that of the first."""
    return [getattr(blocks[number], layer) for number in numbers if number < len(blocks)] or [getattr(blocks[0], layer)]


def rows_by_watch(inputs: ModelInput) -> dict[Watch, list[int]]:
    """Returns the rows of a network input that each watch counts; without the watches that count none."""
    watches = dict.fromkeys(watch for watch in inputs.watches if isinstance(watch, Watch))
    rows = {watch: watch.rows(inputs) for watch in watches}
    return {watch: own for watch, own in rows.items() if own}


def layers(unet: Any) -> list[nn.Module]:
    """Returns the cross-attention layers of the decoder block whose side, at the native size, is nearest to CELLS.

    Only the decoder's: with the encoder's or with coarser layers, masks of the built-in model fit objects less well.
    """
    blocks = list(unet.up_blocks)
    found: dict[float, list[nn.Module]] = {}
    for depth, block in enumerate(reversed(blocks)):
        cells = unet.config["sample_size"] / 2**depth
        found[abs(math.log(cells / CELLS))] = [layer for name, layer in block.named_modules() if name.endswith("attn2")]
    return found[min(distance for distance, inside in found.items() if inside)]
