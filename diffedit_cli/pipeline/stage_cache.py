"""What the stages compute, each found in the cache by what it is about, or made and kept there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from diffedit_cli.errors import DiffEditError
from diffedit_cli.models import folder
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage import artifacts, hashing, records
from diffedit_cli.storage.artifacts import Arrays
from diffedit_cli.storage.cache import Cache

SCHEMA = 2  # raise it when the same parameters give other results: old cache entries are then no longer found


def remembered(
    cache: Cache | None,
    stage: str,
    abouts: Mapping[str, Mapping[str, Any]],
    stats: EditStats,
    compute: Callable[[Collection[str]], Mapping[str, Arrays]],
) -> Mapping[str, Arrays]:
    """Arrays by kind, each found in the cache by what it is about, or computed with all that is missing."""
    keys = {kind: cache_key(kind, about) for kind, about in abouts.items()}
    with contextlib.ExitStack() as lock:
        found = _all_found(cache, keys, stats)
        if len(found) < len(keys) and cache:
            lock.enter_context(cache.alone(keys[min(keys)]))
            found = _all_found(cache, keys, stats)  # by another process, meanwhile
        missing = [kind for kind in abouts if kind not in found]
        stats.cache[stage] = "miss" if missing else stats.cache.get(stage, "hit")  # of all parts and variants
        if not missing:
            stats.spent(stage, 0)
            return found
        made = compute(missing)
        for kind in missing:
            _keep(cache, kind, keys[kind], made[kind], abouts[kind], stats)
        return {**found, **made}


def aside(
    cache: Cache | None, kind: str, about: Mapping[str, Any], stats: EditStats, compute: Callable[[], Arrays]
) -> Arrays:
    """What is no stage of its own, found or made and kept; no account is given of it, and nobody waits for another."""
    key = cache_key(kind, about)
    found = _found(cache, kind, key, stats) if cache else None
    if found is not None:
        return found
    made = compute()
    if artifacts.finite(made):
        _keep(cache, kind, key, made, about, stats)
    return made


def cache_key(kind: str, about: Mapping[str, Any]) -> str:
    """What a cached stage depends on; the model and what is added count by digest, whatever they are called."""
    relevant = {name: value for name, value in about.items() if name not in folder.SPELLINGS}
    return hashing.of_record({"schema": SCHEMA, "kind": kind, **relevant})


def _all_found(cache: Cache | None, keys: Mapping[str, str], stats: EditStats) -> dict[str, Arrays]:
    if cache is None:
        return {}
    return {kind: arrays for kind, key in keys.items() if (arrays := _found(cache, kind, key, stats)) is not None}


def _found(cache: Cache, kind: str, key: str, stats: EditStats) -> Arrays | None:
    """What the cache has under a key."""
    entry = cache.find(kind, key)
    if entry is None:
        return None
    try:
        arrays, said = artifacts.unpack(entry)
        if (said["key"], said["kind"]) != (key, kind):
            raise ValueError("it is another entry")
    except FileNotFoundError:  # another process has made room since
        return None
    except artifacts.UNREADABLE:
        stats.warn(f"The cache entry {entry} is damaged; it is made again.")
        return None
    return arrays


def _keep(cache: Cache | None, kind: str, key: str, arrays: Arrays, about: Mapping[str, Any], stats: EditStats) -> None:
    if cache is None:
        return
    try:
        cache.store(kind, key, artifacts.pack(arrays, records.record(kind, {**about, "key": key})))
    except DiffEditError as error:
        stats.warn(f"Nothing is kept in the cache: {error}")
