"""The names of devices in --device, checked without PyTorch, which says later which ones are here."""

from __future__ import annotations

import re

from diffedit_cli.errors import UsageError

KINDS = ("cuda", "xpu", "mps", "cpu")  # the best one first; "cuda" is also what PyTorch calls AMD's GPUs (ROCm)
NAME = re.compile(rf"auto|(?:{'|'.join(KINDS)})(?::(?:0|[1-9][0-9]{{0,8}}))?")


def named(text: str, *, several: bool = False) -> list[str]:
    """Returns the devices that --device names, which is one unless it may be `several`, with commas.

    Raises UsageError for what is no name of a device, and for a list that names one twice, or `auto` beside others.
    """
    names = text.split(",") if several else [text]
    for name in names:
        if NAME.fullmatch(name):
            continue
        if "," in name:
            raise UsageError(f"--device {text} names several devices, which only diffedit run uses; give one.")
        among = f" in --device {text}" if len(names) > 1 else ""
        raise UsageError(f"The device {name!r}{among} is unknown; use auto, cpu, mps, cuda, cuda:1, xpu or xpu:1.")
    if len(names) > 1 and "auto" in names:
        raise UsageError(f"--device {text} has auto in a list; give auto alone, or the devices that it stands for.")
    found: dict[str, str] = {}
    for name in names:
        number = name if ":" in name else f"{name}:0"
        if number in found:
            also = "" if found[number] == name else f", as {found[number]} and {name}"
            raise UsageError(f"--device {text} names one device twice{also}; name each once.")
        found[number] = name
    return names
