"""Read-through cache for stage outputs, keyed by a digest of their inputs."""

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

SCHEMA = 2  # raise it when the same parameters give other results, so that old cache entries are no longer found


class StageCache:
    """Cached arrays by kind and inputs; without a cache folder everything is computed."""

    def __init__(self, cache: Cache | None) -> None:
        self._cache = cache

    def beside(self, wait: Callable[[], None]) -> StageCache:
        """Returns a view for concurrent edits; it calls `wait` while another edit computes an entry that it needs."""
        return StageCache(Cache(self._cache.root, wait) if self._cache else None)

    def get_or_compute(
        self,
        stage: str,
        inputs: Mapping[str, Mapping[str, Any]],
        stats: EditStats,
        compute: Callable[[Collection[str]], Mapping[str, Arrays]],
    ) -> Mapping[str, Arrays]:
        """Returns the arrays of a stage by kind, each read from the cache by its inputs, or else computed and stored.

        `compute` receives the kinds that are missing. Other processes that need the same entries wait meanwhile.
        `stats` counts a hit or a miss of the stage.
        """
        keys = {kind: cache_key(kind, values) for kind, values in inputs.items()}
        with contextlib.ExitStack() as lock:
            found = self._read_all(keys, stats)
            if len(found) < len(keys) and self._cache:
                lock.enter_context(self._cache.exclusively(keys[min(keys)]))
                found = self._read_all(keys, stats)  # another process may have stored it meanwhile
            missing = [kind for kind in inputs if kind not in found]
            stats.cache[stage] = "miss" if missing else stats.cache.get(stage, "hit")  # of all crops and variants
            if not missing:
                stats.spent(stage, 0)
                return found
            computed = compute(missing)
            for kind in missing:
                self._store(kind, keys[kind], computed[kind], inputs[kind], stats)
            return {**found, **computed}

    def get_or_compute_part(
        self, kind: str, inputs: Mapping[str, Any], stats: EditStats, compute: Callable[[], Arrays]
    ) -> Arrays:
        """Returns intermediate arrays of a stage, read from the cache by their inputs, or else computed and stored.

        Not counted in the statistics and not locked: two processes may compute them twice. Arrays with values that are
        not finite are not stored.
        """
        key = cache_key(kind, inputs)
        found = self._read(kind, key, stats)
        if found is not None:
            return found
        computed = compute()
        if artifacts.finite(computed):
            self._store(kind, key, computed, inputs, stats)
        return computed

    def _read_all(self, keys: Mapping[str, str], stats: EditStats) -> dict[str, Arrays]:
        return {kind: arrays for kind, key in keys.items() if (arrays := self._read(kind, key, stats)) is not None}

    def _read(self, kind: str, key: str, stats: EditStats) -> Arrays | None:
        entry = self._cache.find(kind, key) if self._cache else None
        if entry is None:
            return None
        try:
            arrays, record = artifacts.unpack(entry)
            if (record["key"], record["kind"]) != (key, kind):
                raise ValueError("it is another entry")
        except FileNotFoundError:  # another process has evicted it since
            return None
        except artifacts.UNREADABLE:
            stats.warn(f"The cache entry {entry} is damaged; it is computed again.")
            return None
        return arrays

    def _store(self, kind: str, key: str, arrays: Arrays, inputs: Mapping[str, Any], stats: EditStats) -> None:
        if self._cache is None:
            return
        try:
            self._cache.store(kind, key, artifacts.pack(arrays, records.record(kind, {**inputs, "key": key})))
        except DiffEditError as error:
            stats.warn(f"The result is not stored in the cache: {error}")


def cache_key(kind: str, inputs: Mapping[str, Any]) -> str:
    """Returns the digest (hex) of a kind and its inputs; the model and its adapters count by digest, not by name."""
    relevant = {name: value for name, value in inputs.items() if name not in folder.SPELLINGS}
    return hashing.of_record({"schema": SCHEMA, "kind": kind, **relevant})
