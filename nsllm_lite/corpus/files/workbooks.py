"""The rows of workbooks (.xls, .xlsx, .xlsb, .ods), read by python-calamine in a process of its own.

calamine holds a sheet as one rectangle from its first cell to its last: a file of 1 kB with a value in two corners asks
for 512 GiB, and then the process that called it is aborted. So it runs in a process with limits, which does nothing but
write rows: whatever a file does to it costs that file alone. This file is its program too, so it imports nothing of
ours. openpyxl 3.1.5, which reads a sheet as a stream, reads no .xls, and xlrd 2.0.2 nothing else.

Source: https://docs.rs/calamine, https://pypi.org/project/python-calamine
"""

import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

MAX_MEMORY_BYTES = 1 << 30  # of the process; 60,000 papers in 63 columns need 331 MB and 6 s
MAX_SECONDS = 120  # of its CPU time
MAX_ROW_CHARS = 1 << 24
COMMAND = [sys.executable, "-P", __file__]  # -P: the folder of this file holds modules of common names
COMPOUND = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # begins .xls, and the other files of Office until 2003
ZIPPED = b"PK\x03\x04"
MEMBERS = frozenset(("xl/workbook.xml", "xl/workbook.bin"))  # a zip with one of these is a workbook
OPEN_DOCUMENT = b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet"  # the first file in the zip, not packed

# The sheet ("" for the file, None where it is no workbook), and the cells of a row (texts, numbers, null) or a message.
Row = tuple[str | None, list | str]


def iter_rows(file: BinaryIO) -> Iterator[Row]:
    """The rows that are not empty, of all sheets in order, of a file on disk. Dates are in ISO 8601.

    Raises:
        RunError: the process was ended from outside, which says nothing of the file.
    """
    file.seek(0)
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # the process shares the place of the descriptor, not that of the buffer
    from nsllm_lite.corpus.files.streams import Budget, TooLargeError  # not among the imports of the program

    budget = Budget(os.fstat(file.fileno()).st_size)
    pipes = {"stdin": file, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(COMMAND, **pipes, start_new_session=True) as process:  # Ctrl-C is for this process alone
        try:
            for line in process.stdout:
                budget.spend(len(line))
                if line.endswith(b"\n"):
                    yield tuple(json.loads(line))
            if status := process.wait():
                yield "", _why_ended(status)
        except TooLargeError as error:  # a long text is stored once and used in many rows
            yield "", f"nothing is read from here on: the workbook {error}"
        finally:
            process.kill()


def _why_ended(status: int) -> str:
    from nsllm_lite.corpus.files.killed import require_own_end  # not among the imports of the program

    require_own_end(status, "a workbook")
    limits = f"{MAX_MEMORY_BYTES >> 20:,} MiB of memory or {MAX_SECONDS} s"
    return f"the workbook needs more than {limits}, or breaks the program that reads it; save it as CSV"


def _write_rows(book: BinaryIO, out: BinaryIO) -> None:
    import python_calamine

    def say(sheet: str | None, cells: Any) -> None:
        out.write(json.dumps([sheet, cells], ensure_ascii=False, default=str).encode() + b"\n")

    faults = (python_calamine.CalamineError, OSError, ValueError)
    try:
        workbook = python_calamine.load_workbook(io.BytesIO(book.read()))
        sheets = [one.name for one in workbook.sheets_metadata if one.typ == python_calamine.SheetTypeEnum.WorkSheet]
    except faults as error:
        say(None, f"no workbook that can be read: {error}")
        return
    for name in sheets:
        try:
            for row in workbook.get_sheet_by_name(name).iter_rows():
                if sum(len(cell) for cell in row if isinstance(cell, str)) > MAX_ROW_CHARS:
                    say(name, f"a row is longer than {MAX_ROW_CHARS >> 20} Mi characters")
                elif any(cell not in ("", None) for cell in row):
                    say(name, row)
        except faults as error:
            say(name, f"the sheet cannot be read: {error}")
        out.flush()  # the next one may be the end of this process


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS + 5))  # the first ends it, by a signal of its own
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _write_rows(sys.stdin.buffer, sys.stdout.buffer)
