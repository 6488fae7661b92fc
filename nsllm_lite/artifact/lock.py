"""One run at a time in a directory, on one machine or on several that share a file system.

The lock is a file beside the directory, `.NAME.lock`, that says who holds it. The kernel's own lock on it (flock) ends
with its process, however that ended. Not every file system shares flock between machines, so the holder also counts up
in the file, and a lock of another machine whose count stands still is stale: no clock is compared.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.disk import nearest_folder
from nsllm_lite.artifact.step import utc
from nsllm_lite.errors import WRITE_ELSEWHERE, UserError

BEAT_S = 5.0
WATCH_S = 30.0
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Holds `out` for this process, also against one that names it through a link. Raises UserError where another
    process holds it, or it is a file or below one."""
    out = Path(out).resolve()
    nearest_folder(out)
    made = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    path = out.parent / f".{out.name}.lock"
    try:
        file = _take(path, out)
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        yield  # nothing can be written there, but a finished result can be read
        return
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(file, over), name="lock", daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        path.unlink(missing_ok=True)
        os.close(file)
        for folder in made:  # empty where the run was refused before it wrote anything
            with contextlib.suppress(OSError):
                folder.rmdir()


def _take(path: Path, out: Path) -> int:
    """The lock's file, open, locked and signed."""
    while True:
        try:
            with contextlib.suppress(FileExistsError):  # also of a folder that was there a moment ago
                path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process that gave up has just removed the folder
            continue
        try:
            locked = _flock(file)
            holder = _read(path)
            if locked is False and holder:
                raise _refusal(out, path, holder)
            is_there = path.exists() and path.stat().st_ino == os.fstat(file).st_ino
            if locked is not False and is_there:
                if holder:
                    _require_gone(path, out, holder, bool(locked))
                _sign(file, 0)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # given up a moment ago, or taken a moment ago and not signed yet
        time.sleep(0.05)


def _flock(file: int) -> bool | None:
    """Whether the kernel's lock is ours; None where the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _require_gone(path: Path, out: Path, holder: dict[str, Any], locked: bool) -> None:
    """Raises UserError where the process that signed the lock, which is not locked now, is alive."""
    who = f"process {holder['pid']} on {holder['host']}"
    if holder["host"] == socket.gethostname():
        if not locked and Path(f"/proc/{holder['pid']}").exists():
            raise _refusal(out, path, holder)
    else:
        print(f"{out}: {who} wrote here; watching for {WATCH_S:.0f} s whether it still does ...", flush=True)
        end = time.monotonic() + WATCH_S
        while time.monotonic() < end:
            time.sleep(WATCH_S / 15)
            if (now := _read(path)) != holder:
                raise _refusal(out, path, now or holder)
    print(f"{out}: {who}, which wrote here, is gone without giving up its lock; going on in its place")


def _refusal(out: Path, path: Path, holder: dict[str, Any]) -> UserError:
    found = f"{out} is being written by process {holder['pid']} on {holder['host']}, since {holder['since']}."
    todo = f"Wait for it, stop it, or {WRITE_ELSEWHERE}. If it is certainly gone, delete {path}."
    return UserError("run-locked", found, todo)


def _read(path: Path) -> dict[str, Any] | None:
    """Who signed the lock; None where it is unsigned or unreadable. It is opened anew each time, which NFS requires."""
    try:
        found = json.loads(path.read_text())
        return found if {"pid", "host", "since", "beat"} <= found.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _sign(file: int, beat: int) -> None:
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": _SINCE, "beat": beat}
    text = json.dumps(mine).encode().ljust(300) + b"\n"
    os.pwrite(file, text, 0)
    os.ftruncate(file, len(text))
    os.fsync(file)


_SINCE = utc(time.time())


def _beat(file: int, over: threading.Event) -> None:
    beat = 0
    while not over.wait(BEAT_S):
        beat += 1
        with contextlib.suppress(OSError):  # such as a full disk, which the run itself reports
            _sign(file, beat)
