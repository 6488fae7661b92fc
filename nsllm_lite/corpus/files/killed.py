"""Readers in processes of their own: an end that came from outside says nothing of the file."""

import signal

from nsllm_lite.errors import RunError

FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)  # no limit that such a process has sends one of these


def require_own_end(status: int, reads: str) -> None:
    """`status` is that of subprocess, `reads` what the process reads: "a workbook". Raises RunError where it was killed
    from outside: dropped then, a file would be missing by chance."""
    if -status in FROM_OUTSIDE:
        found = f"The process that reads {reads} was killed from outside, perhaps for lack of memory."
        todo = "Run the same command again to continue; execution.workers=1 needs the least memory."
        raise RunError("reader-killed", found, "Nothing that was finished is lost.", todo)
