"""Counts the bytes that large models need beside their weights, without computing anything.

    python -m benchmarks.activations [--size 1024] [--rows 2]

The published architectures run on PyTorch's meta device, whose tensors have shapes but no values, while a dispatch mode
counts the bytes of the tensors that are alive. `models/memory_needed.py` has a formula fitted to these counts.
"""

from __future__ import annotations

import argparse
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.large_models import MODELS, TOKENS, empty, family_of


class Alive(TorchDispatchMode):
    """Counts the bytes of storages that operations made and that are still alive; `peak` is the largest count."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._seen:
                    self._seen.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return made

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def counted(name: str, part: str, size: int, rows: int) -> float:
    """Returns the peak of bytes beside the weights of one evaluation in bfloat16."""
    from diffedit_cli.engine.interfaces import Embedding, ModelInput

    full = MODELS[name]
    network = empty(full, part).to("meta").bfloat16().eval()
    model = family_of(full, part, network)
    model.device = torch.device("meta")
    with torch.inference_mode(), torch.device("meta"), Alive() as alive:
        if part == "vae":
            model._decoded(torch.zeros(rows, *model.latent_shape((size, size))))
            decoded = alive.peak
            model._encoded(torch.zeros(rows, 3, size, size))
            return max(decoded, alive.peak)
        more = full.more
        text = Embedding(
            torch.zeros(rows, TOKENS, full.width).bfloat16(),
            pooled=torch.zeros(rows, more["pooled"]).bfloat16() if "pooled" in more else None,
            mask=torch.ones(rows, TOKENS, dtype=torch.bool, device="cpu") if name == "z-image" else None,  # reads it
            guidance=torch.full((rows,), 3.5) if "guidance" in more else None,
        )
        x_t = torch.zeros(rows, *model.latent_shape((size, size)))
        model._output(ModelInput(x_t, torch.zeros(rows), text, [None] * rows))
    return alive.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="default: all")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=2)
    given = parser.parse_args()
    for name in given.models or MODELS:
        for part, rows in (("transformer", given.rows), ("vae", 1)):
            print(f"{name} {part}: {counted(name, part, given.size, rows) / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
