"""The checks of `diffedit doctor`: each tries a part of this machine that an edit needs."""

from __future__ import annotations

import platform
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from diffedit_cli import __version__
from diffedit_cli.cli import config_file, server_client
from diffedit_cli.cli.settings_file import ON
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import DiffEditError, OutputError
from diffedit_cli.models import runtimes
from diffedit_cli.models.folder import ModelFolder
from diffedit_cli.models.memory import AUTO, OffloadOptions
from diffedit_cli.storage.cache import Cache

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "pillow", "numpy", "typer", "rich")


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: the part it tried, the exit code (0: it works), and a sentence."""

    what: str
    code: int
    detail: str


def run_checks(find: Callable[[], ModelFolder], device: str, dtype: str, cache: Cache) -> list[Finding]:
    """Runs all checks, one of them on the model that `find` returns; a failed check does not stop the others."""
    return [
        Finding("diffedit", 0, f"{__version__} on Python {platform.python_version()}, {sys.platform}"),
        Finding("libraries", 0, _libraries()),
        _tried("device", lambda: _device(device)),
        Finding("memory", 0, _memory()),
        _tried("model", lambda: _model(find(), device, dtype)),
        _tried("cache", lambda: _cache(cache)),
        _tried("serve", _serve),
    ]


def _tried(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, 0, look())
    except DiffEditError as error:
        return Finding(what, error.code, str(error))


def _libraries() -> str:
    found = [*LIBRARIES, *(["openvino"] if runtimes.is_installed() else [])]
    return ", ".join(f"{name} {metadata.version(name)}" for name in found)


def _device(name: str) -> str:
    from diffedit_cli.models import devices

    chosen = devices.choose_devices(name)
    return "; ".join(f"{one}, {devices.described(one)} ({devices.tried(one)})" for one in chosen)


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"


def _model(folder: ModelFolder, device: str, dtype: str) -> str:
    """Loads the model, evaluates its network once, and returns a description."""
    import torch

    from diffedit_cli.pipeline.edit_pipeline import EditPipeline
    from diffedit_cli.pipeline.stats import EditStats

    pipeline = EditPipeline(folder, None, device=device.split(",")[0], dtype=dtype, memory=OffloadOptions(runtime=AUTO))
    stats = EditStats()
    model = pipeline.session.model(stats)
    size = model.native_size
    with torch.inference_mode():
        x_0 = model.encode(torch.zeros(1, 3, size, size))
        model.predict(x_0, model.levels(2)[-1], model.embed(""))  # one step is too few for Qwen-Image
    checked = (
        "with a safety checker"
        if pipeline.safety_filter.on and pipeline.safety_filter.checker()
        else "no safety checker"
    )
    return (
        f"{folder.name} ({FAMILIES[folder.family].title}), {size} px, {pipeline.dtype}, loaded in "
        f"{stats.seconds['load']:.1f} s and evaluated by {pipeline.session.memory.runtime}; {checked}"
    )


def _serve() -> str:
    """Returns the setting of --serve, and the servers."""
    if not hasattr(socket, "AF_UNIX"):
        return "there are no Unix sockets to serve on"
    states = [f"process {process}: {state}" for process, state in server_client.state()]
    return f"{config_file.effective('serve', ON)}; {', '.join(states) or 'no server is running'}"


def _cache(cache: Cache) -> str:
    cache.need_home()
    entries = cache.entries()
    try:
        cache.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache.root):
            pass
    except OSError as error:
        raise OutputError(
            f"The folder {cache.root} cannot be written ({error.strerror}); choose one with --cache-dir."
        ) from error
    return f"{cache.root}, {len(entries)} entries, {sum(entry.size for entry in entries) / 1e6:.1f} MB"
