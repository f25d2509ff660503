"""The result of one picture, under the contract's JSON keys."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one picture, under the contract's JSON keys."""

    status: Literal["done", "skipped", "failed", "withheld", "planned"]
    error: Mapping[str, Any] | None = None
    input: str
    output: str | None = None
    outputs: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)  # of outputs and mask, as they were written
    mask: str | None = None
    mask_area: float | None = None
    region: str | None = None
    evidence: float | None = None
    preview: str | None = None
    model: str | None = None
    device: str | None = None
    seed: int | None = None
    evaluations: Mapping[str, int] = field(default_factory=dict)
    cache: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    from_: str | None = None
    to: str | None = None
    identity: str | None = None
    ended: str = field(default_factory=_now)

    def json(self, **more: Any) -> str:
        fields = {name.rstrip("_"): value for name, value in dataclasses.asdict(self).items()}
        fields["seconds"] = {stage: round(seconds, 3) for stage, seconds in self.seconds.items()}
        return json.dumps(fields | more)  # in ASCII: any terminal's encoding and any file name passes
