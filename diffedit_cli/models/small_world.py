"""What the folder of a small-world model states: the pictures it takes, its own defaults, its words and places.

A small-world model was trained on a narrow domain of pictures, as the built-in model was.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from diffedit_cli.errors import ModelError
from diffedit_cli.models import configs
from diffedit_cli.storage import paths

FITNESS = "fitness.json"
"""File in which a small-world model states its limits and defaults."""
OWN = {"guidance": 100.0, "invert_from": 1.0, "last_level": 1.0, "paste_above": 255.0}
"""The parameters that a model may set its own defaults for, with their largest values."""
WORLD = "world.json"
"""File in which a small-world model states the words and places that it knows."""


class SmallWorld:
    """Properties of a small-world model, read from its folder; for other models each is None or empty."""

    name: str
    path: Path

    @property
    def fitness(self) -> tuple[float, float] | None:
        """Noise level and limit of the domain check; None for a model that takes any picture.

        The noise level is a share of the schedule, the limit the largest out-of-domain score (see
        engine.networks.domain_check). Raises ModelError.
        """
        said = self._own_words
        return (self._number(said, "strength"), self._number(said, "limit")) if said is not None else None

    @property
    def defaults(self) -> dict[str, float]:
        """The model's own defaults in place of the usual ones, by parameter name. Raises ModelError."""
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
        """Least gain of a prompt over no prompt if a region shows what it names (engine.evidence); None: no limit."""
        return self._own_number("evidence")

    @property
    def evidence_of_looks(self) -> float | None:
        """The same for a thing whose looks are to change: a red unlike the model's own is still red."""
        own = self._own_number("evidence-of-looks")
        return self.evidence if own is None else own

    @property
    def unexplained(self) -> float | None:
        """Largest error that --to may leave unexplained before a warning (engine.evidence); None: not measured."""
        return self._own_number("unexplained")

    @property
    def words(self) -> list[str] | None:
        """All words that the model knows; None for a model that reads any words. Raises ModelError."""
        if not paths.is_file(self.path / WORLD):
            return None
        words = configs.read(self.name, self.path / WORLD).get("words")
        return [str(word) for word in words] if isinstance(words, list) else None

    @property
    def places(self) -> list[str]:
        """Prompts for the places that the model knows ("on the grass"); empty for other models. Raises ModelError."""
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
