"""Streams of files that are not trusted: some fail in the middle, some unpack to more than memory holds."""

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from typing import BinaryIO

MAX_RATIO = 250  # text packs 3 to 30 to one; deflate can do 1,000, xz far more
FREE_BYTES = 1 << 26  # this much may always be unpacked
ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, RuntimeError)
ERRORS += (NotImplementedError, ValueError, MemoryError)  # what zipfile and tarfile raise on damaged archives


class TooLargeError(OSError):
    pass


class Budget:
    """Bytes that may still be unpacked from one file on disk, at all depths together; or characters of its rows."""

    def __init__(self, packed_bytes: int):
        self.packed_bytes = packed_bytes
        self.left = max(FREE_BYTES, MAX_RATIO * packed_bytes)

    def spend(self, num_bytes: int) -> None:
        self.left -= num_bytes
        if self.left < 0:
            raise TooLargeError(f"unpacks to over {MAX_RATIO} times its {self.packed_bytes:,} bytes; refused as a bomb")


class UpToFault(io.RawIOBase):
    """A stream that ends where reading it fails; `fault` is the reason, for the reader to raise.

    A buffer of Python drops what it has collected when a read fails, so the stream is read by `read1`.
    """

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self.fault: Exception | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """As many bytes as are asked for, fewer at the end only."""
        parts, left = [], size
        try:
            while left and not self.fault and (data := self._stream.read1(left)):
                parts.append(data)
                left -= len(data) if size > 0 else 0
        except ERRORS as error:
            self.fault = error
        return b"".join(parts)

    def readinto(self, buffer: memoryview) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def require_whole(self) -> None:
        """Raises the fault, if the stream has ended at one."""
        if self.fault:
            raise self.fault

    def require_uncut(self) -> None:
        """Raises the fault, unless it is only that something stands behind all of a gzip file."""
        if not (isinstance(self.fault, gzip.BadGzipFile) and str(self.fault).startswith("Not a gzipped file")):
            self.require_whole()
