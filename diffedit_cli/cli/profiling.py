"""Profiles a command: records where its time goes, as a trace that browsers show."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diffedit_cli.storage import seals

if TYPE_CHECKING:
    from diffedit_cli.storage.ownership import Ownership


@contextlib.contextmanager
def profile(path: Path | None, owner: Ownership) -> Iterator[None]:
    """Writes a Chrome trace of the block to `path`, also if the block fails; does nothing if `path` is None.

    Raises OutputError if the file may not be written.
    """
    if path is None:
        yield
        return
    from diffedit_cli.storage.ownership import Target

    target = Target(path, "--profile")
    owner.check(target)
    import torch  # before the recording starts: the import takes seconds
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded = profile(activities=activities)
        recorded.start()
        try:
            yield
        finally:
            recorded.stop()
            recorded.export_chrome_trace(str(trace))
            owner.publish({target: _sealable(trace.read_bytes())})


def _sealable(trace: bytes) -> bytes:
    """Returns the trace with room for a seal (`storage.seals`), in a field that browsers ignore."""
    return trace.replace(b"{", b'{"diffedit": "' + seals.BLANK + b'",', 1)
