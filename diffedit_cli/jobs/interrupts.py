"""Detects Ctrl-C even if Python drops it in a finaliser, or a library reports it as an error of its own."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_pressed: int | None = None  # number of the signal, once it was received


def install() -> None:
    """Handles SIGINT in this process from now on, unless the process was started with SIGINT ignored."""
    reset()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, handle_sigint)
    sys.unraisablehook = _unraisable


def reset() -> None:
    """Forgets a Ctrl-C, after the work that it was meant for has ended."""
    global _pressed
    _pressed = None


def handle_sigint(number: int, _: FrameType | None = None) -> None:
    """Signal handler that notes the signal and always raises KeyboardInterrupt."""
    global _pressed
    _pressed = number
    raise KeyboardInterrupt


def raise_if_pressed() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed; error handlers call it, as Ctrl-C may have caused the error."""
    if _pressed is not None:
        raise KeyboardInterrupt


def _unraisable(raised: UnraisableHookArgs) -> None:
    if isinstance(raised.exc_value, KeyboardInterrupt):
        import threading

        told = (threading.main_thread().ident, _pressed or signal.SIGINT)
        threading.Timer(0.01, signal.pthread_kill, told).start()  # again, after the finaliser
    else:
        sys.__unraisablehook__(raised)
