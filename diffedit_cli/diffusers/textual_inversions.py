"""Textual inversions of a pipeline, and the files that notebooks name adapters by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffedit_cli.diffusers.arguments import InvalidArgument
from diffedit_cli.diffusers.placement import Placement
from diffedit_cli.engine.networks import adapter_loading
from diffedit_cli.errors import ModelError
from diffedit_cli.models import adapters, registry
from diffedit_cli.storage.cache import default_root
from diffedit_cli.storage.cache_folder import DIGESTS

EMBEDDING_FILE = "learned_embeds.safetensors"


class TextualInversions(Placement):
    """Adds words to a model."""

    def load_textual_inversion(
        self,
        pretrained_model_name_or_path: str | Path | Sequence[str | Path],
        token: str | Sequence[str] | None = None,
        *,
        weight_name: str | None = None,
    ) -> None:
        """Adds words to the tokenizers, and their vectors to the text encoders.

        Args:
            pretrained_model_name_or_path: `.safetensors` file, or a folder or a repository in the hub's cache that has
                it; or several.
            token: Word that stands for it in prompts, one for each. Default: as the file says.
            weight_name: File in the folder or repository. Default: learned_embeds.safetensors.

        Raises:
            ModelError: There is no such file, or it does not fit the model.
            InvalidArgument: There is another number of words.
        """
        several = isinstance(pretrained_model_name_or_path, list | tuple)
        places: Sequence[Any] = pretrained_model_name_or_path if several else [pretrained_model_name_or_path]  # type: ignore[assignment]
        words = [token] * len(places) if token is None or isinstance(token, str) else list(token)
        if len(words) != len(places) or (isinstance(token, str) and several):
            raise InvalidArgument(f"There are {len(places)} textual inversions; give a list of as many words.")
        files = [str(adapter_file(place, weight_name, EMBEDDING_FILE)) for place in places]
        if not self._family.learns_words:
            raise ModelError(f"The text encoder of the model {self._name} learns no words; use a LoRA.")
        parts = {part: one for part, one in self.components.items() if one is not None}
        for found, word in zip(adapters.embeddings(files, default_root() / DIGESTS), words, strict=True):
            adapter_loading.embed(parts, found.file, word, self._name)


def adapter_file(place: object, weight_name: str | None, usual: str) -> Path:
    """Returns the file of an adapter.

    Args:
        place: File, folder, or repository in the hub's cache.
        weight_name: Name of the file in a folder or repository; None for the `usual` one.
        usual: Name that diffusers gives such files.

    Raises:
        ModelError: If it is not there.
        InvalidArgument: If it is no place.
    """
    if not isinstance(place, str | Path):
        raise InvalidArgument(f"An adapter cannot be a {type(place).__name__}; give the name of a .safetensors file.")
    path, name = Path(place).expanduser(), weight_name or usual
    if not path.exists() and (folder := registry.in_hub_cache(str(place), name)) is not None:
        path = folder
    path = path / name if path.is_dir() else path
    if not path.is_file():
        raise ModelError(f"There is no file {path} on this machine; check the name, or get it first.")
    return path
