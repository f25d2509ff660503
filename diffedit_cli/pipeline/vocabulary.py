"""Rejects words that a small-world model does not know, and suggests similar words that it knows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from diffedit_cli.errors import ModelError, UsageError
from diffedit_cli.pipeline.parameter import AUTO
from diffedit_cli.pipeline.params import Params

if TYPE_CHECKING:
    from diffedit_cli.models.folder import ModelFolder

_WORD = re.compile(r"[^\W\d_]+")
SHORTEST, ALIKE = 3, 0.7  # least letters of a suggested word, and its least similarity (0 to 1)


def check(params: Params, folder: ModelFolder, stages: Iterable[str]) -> None:
    """Raises ModelError for a word in the prompts of these stages that the model does not know, before it is loaded."""
    added = [embedding.token or "" for embedding in folder.embeddings]
    if folder.words is None or "" in added:  # a token that only the file names is not read yet
        return
    known = {*map(str.lower, folder.words), *_words(added)}
    told = params.prompts_of(stages)
    if params.caption == AUTO:
        told.pop("caption", None)
    prompts = [prompt for prompt in told.values() if isinstance(prompt, str)]
    unknown = [word for word in dict.fromkeys(_words(prompts)) if word not in known]
    if unknown:
        words = [word for word in folder.words if len(word) >= SHORTEST]
        meant = [found[0] for word in unknown if (found := difflib.get_close_matches(word, words, 1, ALIKE))]
        guess = f"did you mean {', '.join(meant)}? It" if meant else "it"
        quoted = " and ".join(f'"{word}"' for word in unknown)
        raise ModelError(
            f"The model {folder.name} does not know {quoted}; {guess} knows only these words: "
            f"{', '.join(sorted(folder.words))}. For other words use a larger model (see diffedit models list), for "
            "instance with: diffedit models pull sd15, then --model sd15."
        )


def check_different(params: Params) -> None:
    """Raises UsageError if --from and --to say the same and their negative prompts do not differ either."""
    source, target = params.from_, params.to
    if params.guided_mask or not (isinstance(source, str) and isinstance(target, str)):
        return
    if " ".join(source.lower().split()) == " ".join(target.lower().split()):
        raise UsageError(f'--from and --to both say "{source}"; say in --to what it should become.')


def _words(prompts: Iterable[str]) -> list[str]:
    return [word for prompt in prompts for word in _WORD.findall(prompt.lower())]
