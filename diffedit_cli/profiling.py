"""Where the time of a command goes, as a trace that browsers show."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from diffedit_cli import files


@contextlib.contextmanager
def profiled(path: Path | None, *, force: bool) -> Iterator[None]:
    """Writes a Chrome trace of what happens meanwhile, also of what failed. Raises OutputError."""
    if path is None:
        yield
        return
    files.check_target(path, inputs=[], ours=False, force=force, option="--profile")
    import torch  # seconds, which would else be counted
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
            files.publish(path, trace.read_bytes())
