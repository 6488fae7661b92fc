"""What no input may bring about, whichever code reads it: long work, much memory, pickles, processes (but those with
limits that read workbooks and PDF files), network, writing outside its own folder."""

import faulthandler
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from nsllm_lite.corpus.files import workbooks
from nsllm_lite.corpus.files.pdf import worker

CPU_SECONDS = 10.0  # of one input; they are of some kB
WALL_SECONDS = 300  # then even what runs in C, or waits, ends the process
MEMORY_BYTES = 1 << 30  # that one input may add to the process's peak
REFUSED = {"pickle.find_class", "socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.fork"}
REFUSED |= {"os.posix_spawn"}
# Which arguments are paths, and which the folders they are seen from, as a descriptor or -1.
WRITES = {"os.remove": ((0, 1),), "os.rmdir": ((0, 1),), "os.mkdir": ((0, 2),), "os.rename": ((0, 2), (1, 3))}
WRITES |= {"os.link": ((1, 3),), "os.symlink": ((1, 2),)}


class Broken(BaseException):  # no `except Exception` may swallow it
    """A promise that was not kept; `hangs` tells one of time from the others."""

    def __init__(self, message: str, hangs: bool = False):
        super().__init__(message)
        self.hangs = hangs


class _Watch:
    folder = ""  # empty: nobody watches
    found: list[str]
    hooked = False


def _is_reader(command: Any) -> bool:
    """Whether the process is one of those in which a library reads a file within limits."""
    begins = worker.START.partition("{path!r}; ")[2].partition("{arguments")[0]
    return command == workbooks.COMMAND or (list(command[:2]) == [sys.executable, "-c"] and begins in command[2])


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _Watch.folder:
        return
    if event in REFUSED and not (event == "subprocess.Popen" and _is_reader(arguments[1])):
        _refuse(f"{event} {str(arguments)[:200]}")
    elif event in WRITES:
        for path, seen_from in WRITES[event]:
            _require_inside(arguments[path], event, arguments[seen_from])
    elif event == "open":
        path, mode, flags = arguments
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(flags, int) else False
        if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
            _require_inside(path, event)


def _require_inside(path: Any, event: str, seen_from: int = -1) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return  # a descriptor, opened before
    folder = _Watch.folder
    start = os.getcwd() if seen_from < 0 else os.readlink(f"/proc/self/fd/{seen_from}")
    place = os.path.realpath(os.path.join(start, os.fsdecode(path)))
    allowed = (folder, "/dev/null", "/proc/", f"{tempfile.gettempdir()}/torchinductor_")  # torch's own cache
    if not place.startswith(allowed) and "__pycache__" not in place:
        _refuse(f"{event} {place}, outside {folder}")


def _refuse(words: str) -> None:
    _Watch.found.append(words)
    raise Broken(words)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise Broken(f"more than {CPU_SECONDS:g} s of CPU", hangs=True)


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Everything inside must keep the promises; only `folder` may be written to, temporary files included.

    Raises:
        Broken: it did not.
    """
    if not _Watch.hooked:
        sys.addaudithook(_hook)
        _Watch.hooked = True
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handler = signal.signal(signal.SIGPROF, _too_long)
    temporary, tempfile.tempdir = tempfile.tempdir, str(folder)
    _Watch.found, _Watch.folder = [], os.path.realpath(folder)
    faulthandler.dump_traceback_later(WALL_SECONDS, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        _Watch.folder, tempfile.tempdir = "", temporary
        signal.signal(signal.SIGPROF, handler)
    if _Watch.found:  # swallowed on its way
        raise Broken(_Watch.found[0])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > MEMORY_BYTES:
        raise Broken(f"{grown >> 20} MiB of memory")
