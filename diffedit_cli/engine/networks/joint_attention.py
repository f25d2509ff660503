"""Records where a transformer with joint attention places the words of a prompt (ConceptAttention, arXiv:2502.04320).

Picture and text tokens attend to each other in one attention. A picture token belongs to the text token whose attention
output its own output resembles: in the paper this segments objects better than the attention weights do (mean IoU 71
against 60 on ImageNet-Segmentation). The paper adds tokens for its concepts; here the words of the prompt are the
concepts, so that no evaluation is added. The blocks are those that carry locations in earlier work (docs/masks.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from diffedit_cli.engine.interfaces import ModelInput
from diffedit_cli.engine.networks.cross_attention import Watch, rows_by_watch


class OutputWatch(Watch):
    """Mean similarity of each cell to some tokens of one prompt, among all of its tokens, over layers and pictures."""

    def compare(self, picture: Tensor, text: Tensor) -> Tensor:
        """Returns the share of the watched tokens in the similarity of each cell to all tokens.

        Args:
            picture: (n, cells, K) attention outputs of the cells, K channels.
            text: (n, L, K) attention outputs of the tokens.

        Returns:
            Shares (n, cells), 0 to 1, float32: the sum of a softmax over the L tokens.
        """
        similarity = picture.float() @ text.float().transpose(1, 2)
        return similarity.softmax(dim=-1)[..., self.places].sum(dim=-1)


@contextlib.contextmanager
def watch_outputs(
    layers: Callable[[], Sequence[Any]], inputs: ModelInput, stream: tuple[int, int] | None = None
) -> Iterator[None]:
    """Context for one call of a transformer that records the outputs of its joint attention layers.

    The output of the network stays the same. A call that fails is not recorded.

    Args:
        layers: Returns attention layers of diffusers: `to_out` projects the outputs of the picture's tokens, and
            `to_add_out`, without a `stream`, those of the text's tokens.
        inputs: Input of the call.
        stream: In layers with one stream the number of the picture's tokens, and the position of the first text token.
            Default: the layers have two streams.

    Yields:
        Once, for the call.
    """
    rows = rows_by_watch(inputs)
    seen: dict[tuple[int, str], Tensor] = {}
    hooks = []

    def keep(number: int, part: str, layer: nn.Module) -> None:
        hooks.append(layer.register_forward_pre_hook(lambda _, given: seen.update({(number, part): given[0]})))

    watched = layers() if rows else ()
    for number, layer in enumerate(watched):
        keep(number, "picture", layer.to_out[0])
        if stream is None:
            keep(number, "text", layer.to_add_out)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for number in range(len(watched)):
        picture = seen[number, "picture"]
        cells, first = stream or (picture.shape[1], 0)
        text = picture[:, first:] if stream else seen[number, "text"]
        for watch, own in rows.items():
            assert isinstance(watch, OutputWatch)
            index = watch.index(own)
            watch.add(watch.compare(picture[index, :cells], text[index, : watch.length]))
