"""A mapping on disk that behaves as a dict does."""

from __future__ import annotations

import gc
import threading

import pytest

from diffedit_cli.results.disk_dict import DiskDict


def test_it_is_a_dict_whose_values_are_json() -> None:
    ours, theirs = DiskDict(), {}
    for mapping in (ours, theirs):
        mapping["a"] = {"status": "done", "list": [1, None, "\ud800"]}
        mapping["b"] = 2
        mapping["c"] = 3
        mapping["a"] = 4  # keeps its place
        assert mapping.pop("b") == 2
        mapping["b"] = 5  # goes to the end
        assert mapping.pop("none", "default") == "default"
        with pytest.raises(KeyError):
            mapping["none"]
        with pytest.raises(KeyError):
            del mapping["none"]
    assert list(ours.items()) == list(theirs.items()) == [("a", 4), ("c", 3), ("b", 5)]
    assert (list(ours), len(ours), "a" in ours, bool(DiskDict())) == (["a", "c", "b"], 3, True, False)


def test_its_iterators_need_no_other_reference() -> None:
    def made() -> DiskDict:
        one = DiskDict()
        one["key"] = 1
        return one

    keys, items = iter(made()), iter(made().items())
    gc.collect()
    assert (list(keys), list(items)) == (["key"], [("key", 1)])


@pytest.mark.filterwarnings("error")
def test_another_thread_may_collect_it() -> None:
    held = [DiskDict()]
    collector = threading.Thread(target=held.clear)  # the last reference goes there, and the file is closed there
    collector.start()
    collector.join()
    assert held == []


def test_values_come_back_as_they_were() -> None:
    value = {"status": "done", "list": [1, None, "\ud800"], "number": 0.1}
    one = DiskDict()
    one["key"] = value
    assert one["key"] == value
