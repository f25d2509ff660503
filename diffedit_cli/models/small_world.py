"""What a model of a small world says of itself: which pictures it takes, its own defaults, its words and places."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from diffedit_cli.errors import ModelError
from diffedit_cli.models import configs
from diffedit_cli.storage import paths

FITNESS = "fitness.json"
"""What a model of a small world says of itself."""
OWN = {"guidance": 100.0, "invert_from": 1.0, "last_level": 1.0, "paste_above": 255.0}
"""The parameters that a model may have defaults of its own for, with the most that they can be."""
WORLD = "world.json"
"""What a model of a small world knows."""


class SmallWorld:
    """What only the folder of a model of a small world has; of others every property is None or empty."""

    name: str
    path: Path

    @property
    def fitness(self) -> tuple[float, float] | None:
        """Of a model of a small world: the noise to try a picture with, and the misfit that it may have.

        None for a model that takes any picture. See engine.networks.domain_check. Raises ModelError.
        """
        said = self._own_words
        return (self._number(said, "strength"), self._number(said, "limit")) if said is not None else None

    @property
    def defaults(self) -> dict[str, float]:
        """What it says of itself in place of usual defaults, by the parameters' names. Raises ModelError."""
        found: dict[str, float] = {}
        for name, most in OWN.items():
            said = name.replace("_", "-")
            if (value := self._own_number(said)) is None:
                continue
            if not 0 <= value <= most:
                raise ModelError(
                    f"The model {self.name} is damaged: {said} in {self.path / FITNESS} is {value:g}; get it again."
                )
            found[name] = value
        return found

    @property
    def evidence(self) -> float | None:
        """How well a prompt must explain a region for what it names to be there (engine.evidence); None: no limit."""
        return self._own_number("evidence")

    @property
    def evidence_of_looks(self) -> float | None:
        """The same for a thing that is to look otherwise: another red than the model's own is still red."""
        own = self._own_number("evidence-of-looks")
        return self.evidence if own is None else own

    @property
    def unexplained(self) -> float | None:
        """How much of a result --to may leave unexplained (engine.evidence) before that is said; None: not asked."""
        return self._own_number("unexplained")

    @property
    def words(self) -> list[str] | None:
        """All words that a model of a small world knows; None for one that reads any. Raises ModelError."""
        if not paths.is_file(self.path / WORLD):
            return None
        words = configs.read(self.name, self.path / WORLD).get("words")
        return [str(word) for word in words] if isinstance(words, list) else None

    @property
    def places(self) -> list[str]:
        """How one says each place that a model of a small world knows ("on the grass"); none of another's. Raises
        ModelError."""
        known = configs.read(self.name, self.path / WORLD).get("places") if paths.is_file(self.path / WORLD) else None
        return [str(place) for place in known.values()] if isinstance(known, dict) else []

    def _own_number(self, name: str) -> float | None:
        said = self._own_words or {}
        return self._number(said, name) if name in said else None

    @cached_property
    def _own_words(self) -> dict[str, Any] | None:
        return configs.read(self.name, self.path / FITNESS) if paths.is_file(self.path / FITNESS) else None

    def _number(self, said: dict[str, Any], name: str) -> float:
        try:
            return float(said[name])
        except (KeyError, TypeError, ValueError):
            raise ModelError(
                f"The model {self.name} is damaged: {self.path / FITNESS} lacks numbers; get it again."
            ) from None
