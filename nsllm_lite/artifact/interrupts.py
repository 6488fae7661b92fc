"""Ending early without loss: Ctrl-C, SIGTERM (Slurm, Colab, `kill`), SIGHUP, or time that is up.

Most work can stop anywhere, because unfinished work is done again: there a signal raises `Stop` at once. Training holds
state that is in no file yet: within `deferred` the first signal is only recorded, until `raise_if_requested` is called
between two steps. A second signal ends the process at once.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, SimpleNamespace

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
TIME_IS_UP = 75  # sysexits' EX_TEMPFAIL: try again later
SAME_S = 0.5  # a terminal and `make` or `accelerate` may each pass on one and the same Ctrl-C


class Stop(BaseException):
    """Not an Exception, so that nothing takes it for a failure of its own. `status` is the process's exit status."""

    def __init__(self, signum: int):
        is_time = signum == signal.SIGALRM
        self.status = TIME_IS_UP if is_time else 128 + signum
        super().__init__("the time of --max-hours is up" if is_time else f"stopped by {signal.Signals(signum).name}")


# The signals received so far; one state a process, as signal handlers have.
_received = SimpleNamespace(signum=0, when=0.0, is_patient=False, is_alone=True, to_save=False)


@contextmanager
def listening(max_hours: float | None = None, save_on: signal.Signals | None = None) -> Iterator[None]:
    """Signals, and the clock after `max_hours`, end the work as above; the signal `save_on` requests a checkpoint.

    A signal that is ignored (SIGHUP under nohup) stays so. In a thread other than the main one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = dict.fromkeys(SIGNALS, _stop) | ({save_on: _save} if save_on else {})
    before = {one: signal.getsignal(one) for one in handlers}
    for one, handler in handlers.items():
        if before[one] is not signal.SIG_IGN:
            signal.signal(one, handler)
    signal.setitimer(signal.ITIMER_REAL, (max_hours or 0) * 3600)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for one, handler in before.items():
            signal.signal(one, handler)
        _received.signum, _received.to_save = 0, False


def _stop(signum: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _received.signum:
        if now - _received.when > SAME_S:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        return
    _received.signum, _received.when = signum, now
    if not _received.is_patient:
        raise Stop(signum)


def _save(signum: int, frame: FrameType | None) -> None:
    _received.to_save = True


@contextmanager
def deferred(on_stop: Callable[[], None], alone: bool = True) -> Iterator[None]:
    """A signal waits for `raise_if_requested`; `on_stop` is then called before the exit. A signal that arrived after
    the last check is raised on exit.

    With several processes (`alone` False) `raise_if_requested` does nothing: they first have to agree on `requested`.
    """
    _received.is_patient, _received.is_alone = True, alone
    try:
        yield
        raise_if_requested()
    except Stop:
        on_stop()
        raise
    finally:
        _received.is_patient = False


def requested() -> int:
    """The signal that has come, or 0."""
    return _received.signum


def raise_if_requested() -> None:
    """Raises `Stop` if a signal has come; called where no step is half done."""
    if _received.signum and _received.is_alone:
        raise Stop(_received.signum)


def take_save() -> bool:
    """Whether a checkpoint was asked for since the last call."""
    wanted, _received.to_save = _received.to_save, False
    return wanted
