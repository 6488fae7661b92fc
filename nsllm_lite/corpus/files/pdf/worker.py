"""PDFs are read in a process of their own: PDFium aborts where memory ends, and some files keep it busy for hours.

One such process reads file after file, each within limits of memory and time that the kernel keeps; one that dies takes
only its file with it, and the next file starts another. It dies with the process that started it. Its answers are JSON,
since what a hostile file has taken over must not be unpickled.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import Any, BinaryIO

from nsllm_lite.corpus.files.killed import require_own_end
from nsllm_lite.corpus.files.pdf.characters import PdfError
from nsllm_lite.errors import UserError

CPU_S = 20
MEMORY_BYTES = 1 << 30  # above what the process has, and twice the file
WALL_S = 600  # where the machine is busy, or the process is stopped
MAX_GROWN_BYTES = 1 << 28  # kept after a file: another process goes on
MAX_ANSWER_BYTES = 1 << 28
_SIZE = struct.Struct("<Q")
_OUT_OF_MEMORY = (signal.SIGABRT, signal.SIGTRAP, signal.SIGILL)  # as allocators end a process
START = "import sys; sys.path[:] = {path!r}; from nsllm_lite.corpus.files.pdf.worker import serve; serve{arguments!r}"


class Worker:
    """Hands files to the process, which starts with the first."""

    def __init__(self, cpu_s: int = CPU_S, memory_bytes: int = MEMORY_BYTES):
        self._cpu_s, self._memory_bytes = cpu_s, memory_bytes
        self._process: subprocess.Popen | None = None
        self._owner = 0
        self._errors: BinaryIO | None = None

    def read(self, content: bytes) -> dict[str, Any]:
        """What `paper.read` gives. Raises PdfError; UserError without the library; RunError where it was killed."""
        if self._process is None or self._owner != os.getpid():  # a fork must not share the pipe
            self._start()
        process = self._process
        try:
            process.stdin.write(_SIZE.pack(len(content)) + content)
            process.stdin.flush()
            answer = self._answer()
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise self._ended()
        if answer["is_last"]:
            self.close()
        if "reason" in answer:
            raise PdfError(answer["reason"], answer["found"])
        return answer["paper"]

    def close(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(BrokenPipeError):  # what was not written yet
                self._process.stdin.close()
            self._process.stdout.close()
            self._errors.close()
        self._process = None

    def _start(self) -> None:
        """Raises UserError where the library is absent: that is no fault of a file."""
        if find_spec("pypdfium2") is None:
            todo = "Install nsllm-lite again (make install), or `pip install pypdfium2`."
            raise UserError("pdfium-missing", "The package pypdfium2, which reads PDF files, is not installed.", todo)
        self._errors = open(os.memfd_create("stderr"), "w+b")  # noqa: SIM115 (closed by close)
        arguments = (os.getpid(), self._cpu_s, self._memory_bytes)
        command = [sys.executable, "-c", START.format(path=sys.path, arguments=arguments)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors)
        self._owner = os.getpid()

    def _answer(self) -> dict[str, Any] | None:
        """None where the process died, or was killed after WALL_S."""
        ends = time.monotonic() + WALL_S
        taken = bytearray()
        source = self._process.stdout.fileno()
        while len(taken) < _SIZE.size or len(taken) < _SIZE.size + _SIZE.unpack_from(taken)[0]:
            ready, _, _ = select.select([source], [], [], max(0, ends - time.monotonic()))
            data = os.read(source, 1 << 20) if ready else b""
            taken += data
            if not data or len(taken) > MAX_ANSWER_BYTES:
                return None
        return json.loads(taken[_SIZE.size :])

    def _ended(self) -> PdfError:
        """Why the process ended, with all of it cleared away."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        self._errors.seek(0)
        said = self._errors.read(1 << 16).decode(errors="replace").strip().splitlines()[-1:]
        self.close()
        require_own_end(code or 0, "PDF files")
        if code is None:
            return PdfError("too_large", f"its reading took more than {WALL_S} s: left out")
        if code == -signal.SIGXCPU:
            return PdfError("too_large", f"its reading took more than {self._cpu_s} s: left out")
        if -code in _OUT_OF_MEMORY or said[:1] == ["MemoryError"]:
            most = f"{self._memory_bytes / 2**30:g} GiB"
            return PdfError("too_large", f"its reading took more than {most} of memory: left out")
        cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return PdfError("broken", f"its reading ended with {cause}{': ' if said else ''}{''.join(said)[:300]}")


def serve(parent: int, cpu_s: int, memory_bytes: int) -> None:
    """Answers file after file on stdin, until it ends."""
    from nsllm_lite.corpus.files.pdf import paper  # not where this file is imported by it

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints
    started_with = _memory_bytes()
    while len(head := source.read(_SIZE.size)) == _SIZE.size:
        size = _SIZE.unpack(head)[0]
        _limit(cpu_s, memory_bytes + 2 * size)
        content = source.read(size)
        try:
            answer = {"paper": paper.read(content)}
        except PdfError as error:
            answer = {"reason": error.reason, "found": error.found}
        del content
        answer["is_last"] = _memory_bytes() - started_with > MAX_GROWN_BYTES
        written = json.dumps(answer).encode()
        answers.write(_SIZE.pack(len(written)) + written)
        answers.flush()


def _limit(cpu_s: int, memory_bytes: int) -> None:
    """The kernel's limits for the next file: SIGXCPU after so long, and no more memory beyond what is taken."""
    spent = time.process_time()
    for what, most in (
        (resource.RLIMIT_CPU, int(spent) + 1 + cpu_s),
        (resource.RLIMIT_AS, _memory_bytes() + memory_bytes),
    ):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _memory_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


WORKER = Worker()
"""Of this process."""
