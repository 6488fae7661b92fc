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

from nsllm_lite.corpus.files import archives
from nsllm_lite.corpus.files.archives import open_files, seekable
from nsllm_lite.corpus.files.opening import UNREADABLE_FILE, Unread

LINES = b"\n".join(json.dumps({"id": f"2501.{i:05}", "title": f"Tin {i}"}).encode() for i in range(2000))


def tar_of(members, mode="w", links=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def zstd_of(content):
    return pa.Codec("zstd").compress(content, asbytes=True)


def opened(tmp_path, content, name="in"):
    """{name: bytes} of all that a file holds, and the lines of what could not be opened."""
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


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd_of, bytes])
def test_compressed_files_whatever_their_name(tmp_path, pack):
    assert opened(tmp_path, pack(LINES), "papers.dat") == ({"papers.dat": LINES}, [])


def test_archives_in_archives_of_any_kind(tmp_path):
    inner = gzip.compress(tar_of({"b/two.json": LINES[:200]}))
    content = lzma.compress(tar_of({"a/one.json": LINES, "x.gz": gzip.compress(b"{}"), "2501.00001.tar.gz": inner}))
    files, lines = opened(tmp_path, content, "dump.tar.xz")
    assert files == {"dump/a/one.json": LINES, "dump/x.gz": b"{}", "dump/2501.00001/b/two.json": LINES[:200]}
    assert not lines
    assert opened(tmp_path, zip_of({"z/dump.tar.xz": content}))[0].keys() == {f"in/z/{n}" for n in files}


def test_latex_files_of_an_archive_find_each_other(tmp_path):
    path = tmp_path / "0704.0001.gz"
    names = ("main.tex", "parts/one.tex", "main.bbl", "fig.png")
    path.write_bytes(gzip.compress(tar_of({name: name.encode() + b"\0" * name.endswith("png") for name in names})))
    found = {o.name: o for o in open_files(path, path.name)}
    assert found.keys() == {f"0704.0001/{name}" for name in names if name != "main.bbl"}  # a part, no paper
    main, one = found["0704.0001/main.tex"], found["0704.0001/parts/one.tex"]
    assert main.sibling("parts/one.tex") == b"parts/one.tex"
    assert main.sibling("main.bbl") == b"main.bbl"
    assert one.sibling("../main.tex") == b"main.tex"
    assert main.sibling("../main.tex") is None
    assert main.sibling("parts/two.tex") is None
    assert found["0704.0001/fig.png"].sibling("main.tex") is None


def test_a_second_file_of_one_name_is_not_lost_silently(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for content in (b"one", b"two"):
            info = tarfile.TarInfo("main.tex")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    files, (line,) = opened(tmp_path, buffer.getvalue())
    assert files == {"in/main.tex": b"one"}
    assert "second file of this name" in line.message


def test_siblings_on_disk_stay_below_their_folder(tmp_path):
    (tmp_path / "paper").mkdir()
    (tmp_path / "secret.tex").write_text("secret")
    (tmp_path / "paper" / "part.tex").write_text("part")
    (tmp_path / "paper" / "link.tex").symlink_to(tmp_path / "secret.tex")
    main = tmp_path / "paper" / "main.tex"
    main.write_text("main")
    (found,) = open_files(main, "main.tex")
    assert found.sibling("part.tex") == b"part"
    assert found.sibling("../secret.tex") is None
    assert found.sibling(str(tmp_path / "secret.tex")) is None
    assert found.sibling("link.tex") is None
    assert found.sibling("x\0y") is None


def refusal(path):
    """What is said where reading ends; all that can be read is read."""
    try:
        for found in open_files(path, path.name):
            if isinstance(found, Unread):
                return found.message
            while found.stream.read(1 << 16):
                pass
    except archives.TooLargeError as error:  # the reader of the file makes a line of it
        return str(error)
    return ""


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd_of])
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, pack):
    path = tmp_path / "bomb"
    path.write_bytes(pack(b"\0" * (1 << 24)))
    assert refusal(path) == ""  # 16 MiB may be unpacked whatever the ratio
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 16)
    assert "unpacks to over 250 times its" in refusal(path)


def test_a_bomb_in_layers_or_of_many_members_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 16)
    layers = gzip.compress(gzip.compress(b"\0" * (1 << 24)))
    many = zip_of({f"{i}.json": b"\0" * (1 << 18) for i in range(60)})
    for content in (layers, many):
        path = tmp_path / "bomb"
        path.write_bytes(content)
        assert "refused as a bomb" in refusal(path)


def test_endless_nesting_ends(tmp_path):
    content = b"{}"
    for _ in range(8):
        content = gzip.compress(content)
    files, (line,) = opened(tmp_path, content)
    assert not files
    assert "archives in archives, 6 deep" in line.message


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "..\\evil.json", "C:\\evil.json"]
)
def test_names_that_lead_outside_are_refused(tmp_path, name):
    for content in (tar_of({name: b"{}", "good.json": b"{}"}), zip_of({name: b"{}", "good.json": b"{}"})):
        files, lines = opened(tmp_path, content)
        assert files == {"in/good.json": b"{}"}
        assert ["leads outside" in line.message for line in lines] == [True]
    assert not (tmp_path.parent / "evil.json").exists()


def test_links_in_an_archive_are_not_followed(tmp_path):
    files, (line,) = opened(tmp_path, tar_of({"good.json": b"{}"}, links=[("bad.json", "/etc/passwd")]))
    assert files == {"in/good.json": b"{}"}
    assert "not followed" in line.message


@pytest.mark.parametrize(
    "pack", [lambda c: zip_of({"a.json": c, "b.json": c}), lambda c: tar_of({"a": c, "b": c}, "w:gz")]
)
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_archive_gives_what_it_can_and_a_line(tmp_path, pack, damage):
    content = bytearray(pack(LINES))
    if damage == "cut":
        content = content[: len(content) * 2 // 3]
    else:
        content[len(content) // 3] ^= 0xFF
    path = tmp_path / "in"
    path.write_bytes(content)
    ended, lines = False, []
    try:
        for found in open_files(path, "in"):
            if isinstance(found, Unread):
                lines.append(found)
            else:
                found.stream.read()
    except archives.ERRORS:  # the reader of a member sees it, and makes a line of it
        ended = True
    assert ended or any(line.reason == UNREADABLE_FILE for line in lines)


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


def test_an_archive_whose_list_of_files_is_empty_is_one_line(tmp_path):
    """As damage to its last bytes leaves it: what it held must not vanish without a word."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "Once upon a time.")
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"PK\x01\x02")] + b"PK\x05\x06" + bytes(18))
    (found,) = open_files(path, "x.zip")
    assert isinstance(found, Unread)
    assert "lists no file" in found.message
