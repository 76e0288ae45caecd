"""SIGTERM, by which schedulers of clusters take a machine away: noted, so that the run can end in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# What a shell reports for a process that SIGTERM has ended.
EXIT_STATUS = 128 + signal.SIGTERM


@contextmanager
def sigterm_noted(wanted: bool = True) -> Iterator[list[int]]:
    """Let a SIGTERM in the body be an entry in the list that this yields, in place of the end of the process.

    Only the main thread hears signals; elsewhere, and where it is not ``wanted``, all stays as it is.

    >>> with sigterm_noted() as received:
    ...     signal.raise_signal(signal.SIGTERM)
    >>> len(received)
    1
    """
    received: list[int] = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield received
        return
    former = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        # None: the former handler was not set by Python, which cannot set it again.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if former is None else former)
