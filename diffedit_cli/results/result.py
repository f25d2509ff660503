"""The result of one picture, as it is written to results.jsonl and, with --json, to standard output."""

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
    """The result of one picture. Its fields are the keys of the JSON object, with `from` for `from_`."""

    status: Literal["done", "skipped", "failed", "withheld", "planned"]
    error: Mapping[str, Any] | None = None
    input: str
    output: str | None = None
    outputs: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)  # path -> sha256 (hex) of outputs and mask as written
    mask: str | None = None
    mask_area: float | None = None
    region: str | None = None
    evidence: float | None = None
    preview: str | None = None
    model: str | None = None
    painter: str | None = None
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
        """Returns the result as one line of JSON; `more` are further keys."""
        fields = {name.rstrip("_"): value for name, value in dataclasses.asdict(self).items()}
        fields["seconds"] = {stage: round(seconds, 3) for stage, seconds in self.seconds.items()}
        return json.dumps(fields | more)  # in ASCII, for any terminal encoding and any file name
