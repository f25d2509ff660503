"""How many pictures a GPU edits together: as many as fit into its memory, and no more than keep it busy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from diffedit_cli.engine.interfaces import Model, ModelInput
from diffedit_cli.engine.networks.batched_calls import PAIR
from diffedit_cli.models import memory_needed
from diffedit_cli.models.devices import device_errors
from diffedit_cli.pipeline.model_session import ModelSession
from diffedit_cli.pipeline.stage_cache import StageCache
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.artifacts import Arrays

MOST = 32  # pictures
GAIN = 1.1  # a number of pictures is worth it if half as many have this many times fewer rows per second
CALLS = 5  # of the network, the fastest of which counts: the first ones warm up and capture a graph
STEPS = 10  # of the schedule from whose middle the noise level is
KIND = "batch"


def pictures_at_once(session: ModelSession, cache: StageCache) -> int:
    """Returns the best number of pictures to edit together; measured once for a model on a device, then cached.

    Cached for the memory that was free, and not at all if it ended while this was measured.

    It is 1 on the CPU, in float32, where the last bits would change, and as long as no model is loaded.
    """
    if session.dtype == "float32" or session.device == "cpu" or not session.is_loaded:
        return 1
    stats = EditStats()
    inputs = {**session.folder.record(), "dtype": session.dtype, **session.memory.record()}
    room = _fitting(session)
    inputs |= {"device": _name(session.device), "offload": session.memory.offload, "room": _power_of_two(room)}

    def measure() -> Arrays:
        model = session.model(stats)
        taken: dict[int, float] = {}

        def seconds(count: int) -> float:
            taken[count] = _seconds(model, session, count)
            return taken[count]

        best = fullest(seconds, room)
        return {"pictures": np.array([best]), "seconds": np.array([*taken.values()])}  # with inf it is not cached

    with device_errors(session.device), torch.inference_mode():
        return int(cache.get_or_compute_part(KIND, inputs, stats, measure)["pictures"][0])


def fullest(seconds: Callable[[int], float], most: int) -> int:
    """Returns the power of two from which twice as many pictures bring less than GAIN times as many a second.

    `seconds` returns how long a joined network call of some pictures takes, inf if it fails; `most` is the most that
    memory has room for.
    """
    best, rate = 1, 1 / seconds(1)
    while rate and 2 * best <= most and (doubled := 2 * best / seconds(2 * best)) >= GAIN * rate:
        best, rate = 2 * best, doubled
    return best


def _fitting(session: ModelSession) -> int:
    """Returns how many pictures fit into the free memory by the formula of `memory_needed`, at most MOST."""
    free, _ = memory_needed.free(session.device)
    room = free - memory_needed.decoding(session.folder, session.dtype, session.memory.vae_tiling)
    return max(1, min(MOST, room // max(1, memory_needed.denoising(session.folder, session.dtype))))


def _seconds(model: Model, session: ModelSession, count: int) -> float:
    """Returns how long a network call for the guided steps of `count` pictures takes at best, inf if it fails."""
    side = (model.native_size, model.native_size)
    x_t = torch.randn((PAIR, *model.latent_shape(side)), generator=torch.Generator().manual_seed(0)).to(session.device)
    at = torch.full((PAIR,), model.levels(STEPS)[STEPS // 2].timestep, device=session.device)
    asked = [ModelInput(x_t, at, model.embed("").rows(PAIR), [None] * PAIR)] * count
    best = math.inf
    for _ in range(CALLS):
        started = time.perf_counter()
        answers = session.ask_together(asked, as_one=True)
        whole = [answer for answer in answers if isinstance(answer, Tensor)]
        if len(whole) < count:
            return math.inf
        whole[-1].flatten()[0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return best


def _power_of_two(room: int) -> int:
    return 1 << (room.bit_length() - 1)


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
