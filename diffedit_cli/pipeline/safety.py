"""Withholds results that the safety checker of the painting model flags."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from diffedit_cli.errors import Withheld
from diffedit_cli.images.pictures import Picture
from diffedit_cli.models.devices import device_errors
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.pipeline.stats import EditStats

if TYPE_CHECKING:
    from diffedit_cli.engine.networks.safety_checker import SafetyChecker


class SafetyFilter:
    """The safety checker of a model; off with `--no-safety`, and for models that ship none."""

    def __init__(self, folder: ModelFolder, device: str, on: bool) -> None:
        self.folder, self.device = folder, device
        self.on = on and folder.has_safety_checker
        self.record: dict[str, Any] = {"safety": False} if folder.has_safety_checker and not on else {}
        self._checker: SafetyChecker | None = None

    def checker(self) -> SafetyChecker:
        """Returns the checker, loaded at the first call. Raises ModelError."""
        if self._checker is None:
            from diffedit_cli.engine.networks.safety_checker import SafetyChecker

            folder = self.folder
            self._checker = SafetyChecker.load(folder.path, self.device, folder.name, folder.variant)
        return self._checker

    def check_all(self, results: Iterable[Picture], stats: EditStats) -> None:
        """Raises Withheld for a result that the checker flags; does nothing if the filter is off."""
        if self.on:
            with stats.clock("safety"):
                for result in results:
                    self.check(result)

    def check(self, result: Picture) -> None:
        """Raises Withheld for a result that the checker flags."""
        with device_errors(self.device):
            flagged = self.checker().flags(result.on_white())
        if flagged:
            raise Withheld(
                f"The edit of {result.name} is withheld: the safety checker of {self.folder.name} flags it. The "
                "checker may be wrong: try another --seed or other words, or disable it with --no-safety."
            )
