"""Packed files are read in place, one in another; hostile ones end in a line."""

import bz2
import gzip
import io
import json
import lzma
import random
import re
import tarfile
import zipfile
import zlib

import pyarrow as pa
import pytest

from nsllm_lite.corpus.files import streams
from nsllm_lite.corpus.files.archives import open_files, seekable
from nsllm_lite.corpus.files.opening import UNREADABLE_FILE, Unread
from nsllm_lite.formats.documents import Document
from tests.corpus.sources.reading import read_path

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


def test_a_hidden_file_is_no_part_of_a_paper(tmp_path):
    (tmp_path / ".git").mkdir()
    for name in (".secret.tex", ".git/part.tex", "part.tex"):
        (tmp_path / name).write_text("text")
    (found,) = open_files(tmp_path / "part.tex", "part.tex")
    assert found.sibling(f"./../{tmp_path.name}/part.tex") == b"text"
    assert [found.sibling(name) for name in (".secret.tex", ".git/part.tex", "./.secret.tex")] == [None] * 3


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
    ids=["nested", "no list", "second of a name", "link"],  # bytes of a zip hold the time
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


# ------------------------------------------------------------------------------------------------------- damaged files


def ris_of(num):
    """Records that hardly pack, so that a cut takes few of them."""
    rng = random.Random(0)
    return b"".join(b"TY  - JOUR\nTI  - T%d\nAB  - %x\nER  -\n\n" % (n, rng.getrandbits(9000)) for n in range(num))


def read_packed(tmp_path, content):
    (tmp_path / "in").write_bytes(content)
    records = read_path(tmp_path / "in")
    return [r for r in records if isinstance(r, Document)], [r for r in records if isinstance(r, Unread)]


@pytest.mark.parametrize("layers", [1, 2])
def test_of_a_gzip_file_cut_short_every_whole_record_is_read(tmp_path, layers):
    cut = gzip.compress(ris_of(300))[:-2000]
    whole = zlib.decompressobj(31).decompress(cut).count(b"ER  -\n")
    papers, (line,) = read_packed(tmp_path, gzip.compress(cut, 0) if layers == 2 else cut)
    assert (len(papers), line.reason) == (whole, UNREADABLE_FILE)
    assert "ended before" in line.message


@pytest.mark.parametrize("num", [1, 300])
@pytest.mark.parametrize("form", ["ris", "jsonl", "xml", "utf-16", "html", "csv"])
def test_what_stands_behind_a_gzip_file_costs_no_record(tmp_path, num, form):
    titles = [f"Tin {n}" for n in range(num)]
    written = {
        "ris": "".join(f"TY  - JOUR\nTI  - {title}\nAB  - A\nER  -\n\n" for title in titles),
        "jsonl": "".join(f'{{"id": "2501.{n:05}", "title": "{t}", "abstract": "A"}}\n' for n, t in enumerate(titles)),
        "html": "<table><tr><td>Title<td>Abstract</tr>"
        + "".join(f"<tr><td>{title}<td>A</tr>" for title in titles)
        + "<tr></table>",
        "csv": "title,abstract\n" + "".join(f"{title},A\n" for title in titles),
    }
    written["xml"] = (
        "<PubmedArticleSet>"
        + "".join(
            f"<PubmedArticle><MedlineCitation><PMID>{n}</PMID><Article><ArticleTitle>{title}</ArticleTitle></Article>"
            "</MedlineCitation></PubmedArticle>"
            for n, title in enumerate(titles, 1)
        )
        + "</PubmedArticleSet>"
    )
    text = written["ris"].encode("utf-16") if form == "utf-16" else written[form].encode()
    papers, lines = read_packed(tmp_path, gzip.compress(text) + b"junk")
    assert [paper.title for paper in papers] == titles
    assert [(line.origin, line.reason) for line in lines] == [("in#0", UNREADABLE_FILE)]


def test_a_paper_that_is_one_text_is_not_read_in_part(tmp_path):
    body = random.Random(0).randbytes(9000).hex()
    tex = rf"\documentclass{{article}}\begin{{document}}\begin{{abstract}}A.\end{{abstract}} {body} \end{{document}}"
    papers, (line,) = read_packed(tmp_path, gzip.compress(tex.encode())[:-2000])
    assert not papers
    assert line.reason == UNREADABLE_FILE


def test_a_zip_behind_which_something_stands_in_its_gzip_file_is_read(tmp_path):
    papers, (line,) = read_packed(tmp_path, gzip.compress(zip_of(("a.ris", ris_of(3)))) + b"junk")
    assert len(papers) == 3
    assert "gzip" in line.message


def zip_with_methods(**methods):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, method in methods.items():
            archive.writestr(f"{name}.json", b"{}", method)
    return buffer.getvalue()


def test_a_zip_unpacks_nothing_that_has_no_bound(opened, monkeypatch):
    methods = {"good": zipfile.ZIP_DEFLATED, "b": zipfile.ZIP_BZIP2, "x": zipfile.ZIP_LZMA, "last": zipfile.ZIP_STORED}
    files, lines = opened(zip_with_methods(**methods))
    assert files == {"in/good.json": b"{}", "in/last.json": b"{}"}
    assert [(line.origin, line.message.split(",")[0]) for line in lines] == [
        ("in/b.json#0", "packed by bzip2"),
        ("in/x.json#0", "packed by lzma"),
    ]


def test_a_bad_member_of_a_zip_costs_itself_alone(opened):
    members = ("good.tex", b"{}"), ("one.json", LINES), ("two.tex", LINES), ("three.json", LINES)
    content = bytearray(zip_of(*members))
    heads = [place.start() for place in re.finditer(b"PK\x03\x04", content)]
    content[heads[1]] = 0
    at = heads[2] + 30 + len("two.tex") + 40
    content[at : at + 64] = b"\xff" * 64
    files, lines = opened(bytes(content))
    assert files == {"in/three.json": LINES, "in/good.tex": b"{}"}
    assert [line.origin for line in lines] == ["in/one.json#0", "in/two.tex#0"]


def test_a_bomb_in_a_zip_still_ends_it(opened, monkeypatch):
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 16)
    files, (line,) = opened(zip_of(("a.tex", b"{}"), ("b.tex", b"\0" * (1 << 24)), ("c.json", b"{}")))
    assert files == {"in/a.tex": b"{}"}
    assert "refused as a bomb" in line.message


def test_a_tar_that_ends_early_gives_the_latex_before_and_a_line(opened):
    content = tar_of(("a.tex", b"one"), ("b.json", b"{}"), ("c.json", b"{}"))
    files, (line,) = opened(content[:2048] + b"\xff" * 512 + content[2560:])
    assert files == {"in/a.tex": b"one", "in/b.json": b"{}"}
    assert "nothing is read from here on" in line.message


def test_a_tar_is_read_behind_what_looks_like_its_end(opened):
    one, other = tar_of(("a.json", b"1"), ("b.json", b"2")), tar_of(("c.json", b"3"))
    assert opened(one + other) == ({"in/a.json": b"1", "in/b.json": b"2", "in/c.json": b"3"}, [])
    files, lines = opened(one[:1024] + bytes(512) + one[1536:])  # the second header is all zeros
    assert files == {"in/a.json": b"1"}
    assert len(lines) == 1
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 9
    pax = header.tobuf(tarfile.USTAR_FORMAT) + b"0 path=x\n".ljust(512, b"\0")
    files, lines = opened(one[:1024] + pax + one[1024:])
    assert len(files) + len(lines) == 2
