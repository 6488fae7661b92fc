"""Packed files are read in place, one in another; hostile ones end in a line."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import pyarrow as pa
import pytest

from nsllm_lite.corpus.files import streams
from nsllm_lite.corpus.files.archives import open_files, seekable
from nsllm_lite.corpus.files.opening import UNREADABLE_FILE, Unread

LINES = b"\n".join(json.dumps({"id": f"2501.{i:05}", "title": f"Tin {i}"}).encode() for i in range(2000))


def tar_of(*members, mode="w"):
    """Of (name, content) pairs; a content that is a string is the target of a link, of the kind that may follow it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content, *kind in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = kind[0] if kind else tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(*members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def zstd_of(content):
    return pa.Codec("zstd").compress(content, asbytes=True)


@pytest.fixture
def opened(tmp_path):
    """A function from the bytes of a file to {name: bytes} of all that it holds, and what could not be opened."""

    def opened(content, name="in"):
        path = tmp_path / name
        path.write_bytes(content)
        files, lines = {}, []
        for found in open_files(path, name):
            if isinstance(found, Unread):
                lines.append(found)
            else:
                files[found.name] = found.stream.read()
                assert files[found.name].startswith(found.head)
        return files, lines

    return opened


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd_of, bytes])
def test_compressed_files_whatever_their_name(opened, pack):
    assert opened(pack(LINES), "papers.dat") == ({"papers.dat": LINES}, [])


def test_archives_in_archives_of_any_kind(opened):
    inner = gzip.compress(tar_of(("b/two.json", LINES[:200])))
    members = [("a/one.json", LINES), ("x.gz", gzip.compress(b"{}")), ("2501.00001.tar.gz", inner)]
    content = lzma.compress(tar_of(*members))
    files, lines = opened(content, "dump.tar.xz")
    assert files == {"dump/a/one.json": LINES, "dump/x.gz": b"{}", "dump/2501.00001/b/two.json": LINES[:200]}
    assert not lines
    assert opened(zip_of(("z/dump.tar.xz", content)))[0].keys() == {f"in/z/{n}" for n in files}


def test_latex_files_of_an_archive_find_each_other(tmp_path):
    path = tmp_path / "0704.0001.gz"
    names = ("main.tex", "parts/one.tex", "main.bbl", "fig.png")
    path.write_bytes(gzip.compress(tar_of(*((name, name.encode() + b"\0" * name.endswith("png")) for name in names))))
    found = {o.name: o for o in open_files(path, path.name)}
    assert found.keys() == {f"0704.0001/{name}" for name in names if name != "main.bbl"}  # a part, no paper
    main, one = found["0704.0001/main.tex"], found["0704.0001/parts/one.tex"]
    assert main.sibling("parts/one.tex") == b"parts/one.tex"
    assert main.sibling("main.bbl") == b"main.bbl"
    assert one.sibling("../main.tex") == b"main.tex"
    assert main.sibling("../main.tex") is None
    assert main.sibling("parts/two.tex") is None
    assert found["0704.0001/fig.png"].sibling("main.tex") is None


def test_siblings_on_disk_stay_below_their_folder(tmp_path):
    (tmp_path / "paper").mkdir()
    (tmp_path / "secret.tex").write_text("secret")
    (tmp_path / "paper" / "part.tex").write_text("part")
    (tmp_path / "paper" / "link.tex").symlink_to(tmp_path / "secret.tex")
    main = tmp_path / "paper" / "main.tex"
    main.write_text("main")
    (found,) = open_files(main, "main.tex")
    assert found.sibling("part.tex") == b"part"
    for name in ("../secret.tex", str(tmp_path / "secret.tex"), "link.tex", "x\0y"):
        assert found.sibling(name) is None


def refusal(opened, content):
    """The message where reading ends; all that can be read is read."""
    try:
        _, lines = opened(content)
    except streams.TooLargeError as error:  # the reader of the file makes a line of it
        return str(error)
    return lines[0].message if lines else ""


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd_of])
def test_a_decompression_bomb_is_refused(opened, monkeypatch, pack):
    bomb = pack(b"\0" * (1 << 24))
    assert refusal(opened, bomb) == ""  # 16 MiB may be unpacked whatever the ratio
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 16)
    assert "unpacks to over 250 times its" in refusal(opened, bomb)


def test_a_bomb_in_layers_or_of_many_members_is_refused_too(opened, monkeypatch):
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 16)
    layers = gzip.compress(gzip.compress(b"\0" * (1 << 24)))
    many = zip_of(*((f"{i}.json", b"\0" * (1 << 18)) for i in range(60)))
    for content in (layers, many):
        assert "refused as a bomb" in refusal(opened, content)


NESTED = b"{}"
for _ in range(8):
    NESTED = gzip.compress(NESTED)
NO_LIST = zip_of(("a.txt", "Once upon a time."))
NO_LIST = NO_LIST[: NO_LIST.index(b"PK\x01\x02")] + b"PK\x05\x06" + bytes(18)  # its last bytes damaged
GOOD = ("good.json", b"{}")


@pytest.mark.parametrize(
    ("content", "readable", "message"),
    [
        (NESTED, {}, "archives in archives, 6 deep"),
        (NO_LIST, {}, "lists no file"),
        (tar_of(("main.tex", b"one"), ("main.tex", b"two")), {"in/main.tex": b"one"}, "second file of this name"),
        (tar_of(GOOD, ("bad.json", "/etc/passwd")), {"in/good.json": b"{}"}, "not followed"),
    ],
)
def test_what_is_not_read_is_one_line(opened, content, readable, message):
    files, (line,) = opened(content)
    assert files == readable
    assert message in line.message


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "..\\evil.json", "C:\\evil.json"]
)
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_names_that_lead_outside_are_refused(opened, tmp_path, name, pack):
    files, (line,) = opened(pack((name, b"{}"), GOOD))
    assert files == {"in/good.json": b"{}"}
    assert "leads outside" in line.message
    assert not (tmp_path.parent / "evil.json").exists()


@pytest.mark.parametrize(
    "content", [zip_of(("a.json", LINES), ("b.json", LINES)), tar_of(("a", LINES), ("b", LINES), mode="w:gz")]
)
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_archive_gives_what_it_can_and_a_line(opened, content, damage):
    content = bytearray(content)
    if damage == "cut":
        content = content[: len(content) * 2 // 3]
    else:
        content[len(content) // 3] ^= 0xFF
    try:
        _, lines = opened(content)
    except streams.ERRORS:  # the reader of a member sees it, and makes a line of it
        return
    assert any(line.reason == UNREADABLE_FILE for line in lines)


def test_a_packed_file_can_be_made_seekable(tmp_path):
    path = tmp_path / "in.gz"
    path.write_bytes(gzip.compress(LINES))
    for found in open_files(path, "in.gz"):
        with seekable(found) as file:
            file.seek(-10, 2)
            assert file.read() == LINES[-10:]


def test_a_stretch_of_a_file(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(LINES)
    cut = LINES.index(b"\n", 1000) + 1
    stretches = ((0, cut), (cut, len(LINES)))
    assert b"".join(found.stream.read() for a, b in stretches for found in open_files(path, "in", a, b)) == LINES
