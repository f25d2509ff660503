"""Ctrl-C, also where Python drops it in a finaliser, or a library takes it for a failure of its own."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_pressed: int | None = None  # the signal that told so


def heed() -> None:
    """From here on this process hears it, unless whoever started it wants it not to."""
    forget()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, press)
    sys.unraisablehook = _unraisable


def forget() -> None:
    """The work that it was meant for has ended."""
    global _pressed
    _pressed = None


def press(number: int, _: FrameType | None = None) -> None:
    """Handles the signal. Always raises KeyboardInterrupt."""
    global _pressed
    _pressed = number
    raise KeyboardInterrupt


def raise_if_pressed() -> None:
    """Where something failed: raises KeyboardInterrupt if that was in truth Ctrl-C."""
    if _pressed is not None:
        raise KeyboardInterrupt


def _unraisable(raised: UnraisableHookArgs) -> None:
    if isinstance(raised.exc_value, KeyboardInterrupt):
        import threading

        told = (threading.main_thread().ident, _pressed or signal.SIGINT)
        threading.Timer(0.01, signal.pthread_kill, told).start()  # once more, when the finaliser is through
    else:
        sys.__unraisablehook__(raised)
