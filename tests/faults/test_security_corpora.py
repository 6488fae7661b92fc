"""Hostile corpora: XML that asks for files, bombs, archives and links that lead outside, commands to terminals."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from lxml import etree

from nsllm_lite import cli
from nsllm_lite.corpus.files import archives, streams, tagged
from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.formats.documents import Document
from tests.corpus.small import paper, prose, values, write_lines
from tests.corpus.sources.reading import read_path as read
from tests.corpus.test_archives import tar_of, zip_of

ROOT = Path(__file__).parents[2]
SECRET = "xyzzy-secret-7481"


def shown(records) -> str:
    """All that is kept of what was read, and all that is said of what was not."""
    return " ".join(map(repr, records))


READ = """
import resource, sys
from tests.corpus.sources.reading import read_path
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
for record in read_path(sys.argv[1], general=sys.argv[2] == "True"):
    print(repr(record)[:2000])
print("grew", peak() - before, "MiB")
"""


def read_in_a_process(path, general=False) -> str:
    """Its records and its growth, printed; in a process of its own, which can be ended and measured."""
    words = [sys.executable, "-c", READ, str(path), str(general)]
    return subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=300, check=True).stdout


# -------------------------------------------------------------------------------------------------------------- XML

XML = {path.stem: path.read_text() for path in sorted((ROOT / "tests/data/faults/xml").iterdir())}
LAUGHS = '<!ENTITY l0 "lol">' + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 11))
DOCTYPES = {
    "file": ('<!DOCTYPE r [<!ENTITY x SYSTEM "file://{0}">]>', "&x;"),
    "http": ('<!DOCTYPE r [<!ENTITY x SYSTEM "http://192.0.2.1/{0}">]>', "&x;"),
    "parameter": ('<!DOCTYPE r [<!ENTITY % p SYSTEM "file://{0}"> %p; <!ENTITY x "%p;">]>', "&x;"),
    "external DTD": ('<!DOCTYPE r SYSTEM "http://192.0.2.1/evil.dtd">', "&x;"),
    "local DTD": ('<!DOCTYPE r SYSTEM "file://{0}">', "&x;"),
    "laughs": (f"<!DOCTYPE r [{LAUGHS}]>", "&l10;"),
    "quadratic": (f'<!DOCTYPE r [<!ENTITY x "{"A" * 30_000}">]>', "&x;" * 20_000),
    "xinclude": ("", '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="file://{0}" parse="text"/>'),
    "stylesheet": ('<?xml-stylesheet type="text/xsl" href="file://{0}"?>', ""),
}


def test_the_entities_do_harm_to_a_parser_that_resolves_them(tmp_path):
    """Else the test below shows nothing."""
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    careless = etree.XMLParser(resolve_entities=True, load_dtd=True)
    for kind, xml in XML.items():
        doctype, use = (part.replace("{0}", str(secret)) for part in DOCTYPES["file"])
        read_by_it = etree.fromstring(doctype + xml.replace("{0}", use), careless)
        assert SECRET in "".join(read_by_it.itertext()), kind


@pytest.mark.parametrize("attack", DOCTYPES)
@pytest.mark.parametrize("kind", XML)
@pytest.mark.timed
def test_xml_reads_no_other_file_reaches_no_network_and_does_not_grow(tmp_path, monkeypatch, kind, attack):
    def refuse(*_):
        raise AssertionError("XML reached for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    doctype, use = (part.replace("{0}", str(secret)) for part in DOCTYPES[attack])
    (tmp_path / "a.xml").write_text(f'<?xml version="1.0"?>{doctype}{XML[kind].replace("{0}", use)}')
    started = time.process_time()
    records = read(tmp_path / "a.xml")
    assert time.process_time() - started < 10
    assert SECRET not in shown(records)
    (document,) = [record for record in records if isinstance(record, Document)]
    assert document.title.startswith("Tin")
    assert len(shown(records)) < 600_000  # "quadratic" would be 600 MB, "laughs" 30 GB
    refused = [record for record in records if isinstance(record, Unread)]
    assert [record.reason for record in refused] == ["entities_refused"] * ("<!ENTITY" in doctype)


# --------------------------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE"])
def test_members_of_a_tar_that_are_no_files_are_refused_and_the_rest_is_read(tmp_path, kind):
    (tmp_path / "secret.json").write_text(json.dumps(paper(2, title=SECRET)))
    evil = ("evil.json", str(tmp_path / "secret.json"), getattr(tarfile, kind))
    up = ("up.json", "../secret.json", getattr(tarfile, kind))
    (tmp_path / "a.tar").write_bytes(tar_of(evil, up, ("good.json", json.dumps(paper(1)).encode())))
    records = read(tmp_path / "a.tar")
    assert [type(r) for r in records] == [Unread, Unread, Document]
    assert all("a link or a device" in r.message for r in records[:2])
    assert SECRET not in shown(records)


def tar_header(size, kind=b"0"):
    """A tar's first block with a stated size, as no writer would make it."""
    info = tarfile.TarInfo("x.json")
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
TARS = {
    "negative size": tar_header(-512) + b"\0" * 4096,
    "negative size of a long name": tar_header(-512, b"L") + b"\0" * 4096,
    "endless size": tar_header(1 << 62) + b"{}",
    "endless long name": tar_header(1 << 62, b"L") + b"a" * 4096,
    "endless extended header": tar_header(1 << 62, b"x") + b"9" * 65_536,
    "sparse map without end": tar_header(len(SPARSE), b"x") + SPARSE.ljust(512, b"\0") + tar_header(512) + b"9" * 512,
    "digits": tar_header(100_000, b"x") + b"9" * 100_000,
}


def test_forged_headers_of_a_tar_end(tmp_path):
    for name, content in TARS.items():
        (tmp_path / f"{name}.tar").write_bytes(content)
    printed = read_in_a_process(tmp_path)
    for name in TARS:
        assert f"Unread(origin='{name}" in printed
    assert printed.count("nothing is read from here on") >= 4


def overlapping_zip():
    """Two entries of the list share one member's bytes, as in the bombs of D. Fifield (2019)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", json.dumps(paper(1)) * 20)
        archive.filelist.extend(archive.filelist * 50)
        archive._didModify = True
    return buffer.getvalue()


def test_entries_of_a_zip_that_share_bytes_are_paid_for_each_time(tmp_path, monkeypatch):
    (tmp_path / "overlap.zip").write_bytes(overlapping_zip())
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 10)
    monkeypatch.setattr(streams, "MAX_RATIO", 2)
    assert re.search("refused as a bomb|Overlapped", read(tmp_path)[-1].message)


def test_the_list_of_an_archive_is_not_held_in_memory_and_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_LIST_BYTES", 4_000)
    (tmp_path / "a.tar").write_bytes(tar_of(*((f"{n}.json", b"") for n in range(80))))
    opened = []
    monkeypatch.setattr(tarfile, "open", lambda *_, open=tarfile.open, **o: opened.append(open(**o)) or opened[-1])
    assert [r.message for r in read(tmp_path)] == ["the file is empty"] * 80
    assert len(opened[0].members) <= 1
    (tmp_path / "a.tar").unlink()
    (tmp_path / "a.zip").write_bytes(zip_of(*((f"{n}.json", "") for n in range(80))))
    (record,) = read(tmp_path)
    assert "4,230 bytes, over 4,000" in record.message


PACKS = {  # pack, and how many MiB of one byte
    "gz": (lambda content: gzip.compress(content, 9), 700),
    "bz2": (bz2.compress, 150),
    "xz": (lambda content: lzma.compress(content, preset=0), 150),
    "zst": (lambda content: pa.Codec("zstd").compress(content, asbytes=True), 700),
}
BOMBS = [*((pack, b"\0", b"") for pack in PACKS), ("gz", b"a", b'{"id": "2501.00001", "title": "')]
BOMBS += [("gz", b"a", b"Once upon a time")]


@pytest.mark.slow
@pytest.mark.parametrize(("pack", "byte", "begin"), BOMBS)
def test_a_bomb_takes_little_memory_and_is_one_line(tmp_path, pack, byte, begin):
    compress, num_mib = PACKS[pack]
    (tmp_path / "a.txt").write_bytes(compress(begin + byte * (num_mib << 20)))
    printed = read_in_a_process(tmp_path, general=begin.startswith(b"Once"))
    assert int(re.search(r"grew (\d+) MiB", printed)[1]) < 600, printed
    assert "Unread(origin='a.txt#" in printed


@pytest.mark.parametrize("general", [False, True])
def test_a_line_without_end_is_refused_where_its_bound_is(tmp_path, monkeypatch, general):
    monkeypatch.setattr("nsllm_lite.corpus.files.opening.MAX_LINE_CHARS", 5_000)
    good, endless = json.dumps(paper(1) | {"text": "a"}), '{"id": "2501.00009", "text": "' + "a" * 9_000 + '"}'
    (tmp_path / "a.jsonl").write_text(f"{good}\n{good}\n{endless}\n{good}\n")
    *documents, refused = read(tmp_path, general=general)
    assert [type(document) for document in documents] == [Document, Document]
    assert "over 5,000 characters" in refused.message


# -------------------------------------------------------------------------------------------------------- own macros


def test_latex_inputs_nothing_from_outside_and_runs_nothing(tmp_path):
    (tmp_path / "secret.tex").write_text(SECRET)
    (tmp_path / "in").mkdir()
    marker = tmp_path / "ran"
    body = (ROOT / "tests/data/faults/inputs.tex").read_text()
    body = body.replace("FOLDER", str(tmp_path)).replace("MARKER", str(marker))
    (tmp_path / "in" / "a.tex").write_text(body)
    records = read(tmp_path / "in")
    assert [r.title for r in records if isinstance(r, Document)] == ["Tin"]
    assert SECRET not in shown(records)
    assert "root:" not in shown(records)
    assert not marker.exists()


@pytest.mark.timed
def test_macros_that_double_end(tmp_path):
    doubling = "".join(rf"\newcommand{{\{chr(98 + n)}}}{{\{chr(97 + n)}\{chr(97 + n)}}}" for n in range(25))
    (tmp_path / "a.tex").write_text(
        rf"\documentclass{{article}}\newcommand{{\a}}{{lol}}{doubling}\title{{Tin}}\begin{{document}}"
        r"\begin{abstract}Whiskers grow \z.\end{abstract}\section{Methods} We watched \z\end{document}"
    )
    strings = [f"@string{{s{n} = {' # '.join([f's{n - 1}'] * 10)}}}" for n in range(1, 12)]
    entry = "@article{k, title = s11 # s11, abstract = {Whiskers grow.}}"
    write_lines(tmp_path / "b.bib", ["@string{s0 = {lol}}", *strings, entry])
    started = time.process_time()
    records = read(tmp_path)
    assert time.process_time() - started < 10
    assert len(shown(records)) < 100_000_000
    assert sum(isinstance(r, Document) for r in records) == 2


# ------------------------------------------------------------------------------------------------------------- links


def test_links_out_of_the_corpus_folder_are_not_followed_and_are_told(tmp_path):
    outside = tmp_path / "outside"
    write_lines(outside / "secret.jsonl", [paper(9, title=SECRET)])
    corpus = tmp_path / "corpus"
    write_lines(corpus / "deep" / "good.jsonl", [paper(1)])
    (corpus / "file").symlink_to(outside / "secret.jsonl")
    (corpus / "folder").symlink_to(outside)
    (corpus / "up").symlink_to("..")
    (corpus / "loop").symlink_to("loop")
    (corpus / "zero").symlink_to("/dev/zero")
    (corpus / "gone").symlink_to("nothing")
    (corpus / "again.jsonl").symlink_to("deep/good.jsonl")
    os.mkfifo(corpus / "pipe")
    (corpus / "to_pipe").symlink_to("pipe")
    found = {r.origin.rsplit("#")[0]: getattr(r, "message", "read") for r in read(corpus)}
    assert found.pop("deep/good.jsonl") == found.pop("again.jsonl") == "read"
    for name in ("file", "folder", "up", "zero"):
        assert "leads out of the folder" in found.pop(name), name
    assert {"loop", "gone", "pipe", "to_pipe"} == found.keys()
    assert all("no file" in message for message in found.values()), found
    (tmp_path / "named").symlink_to(corpus)  # what the user names may be a link itself
    assert len(read(tmp_path / "named")) == 10
    (record,) = read(tmp_path / "named" / "deep" / "good.jsonl")
    assert isinstance(record, Document)


def test_the_cache_of_the_hub_is_links_to_its_blobs_and_is_read(tmp_path):
    cache = tmp_path / "datasets--org--papers"
    write_lines(cache / "blobs" / "0a1b", [paper(1)])
    snapshot = cache / "snapshots" / "main" / "data"
    snapshot.mkdir(parents=True)
    (snapshot / "papers.jsonl").symlink_to("../../../blobs/0a1b")
    write_lines(tmp_path / "secret.jsonl", [paper(9, title=SECRET)])
    (snapshot / "secret.jsonl").symlink_to("../../../../secret.jsonl")
    for named in (snapshot, snapshot.parent):
        document, refused = read(named)
        assert document.title.startswith("Title")
        assert "leads out of the folder" in refused.message


# ---------------------------------------------------------------------------------------------------- the whole verb

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r"


def build(folder, recipe_values):
    path = folder / "corpus.yaml"
    path.write_text(yaml.safe_dump(recipe_values))
    return cli.main(["corpus", str(path)])


def test_a_corpus_of_attacks_is_built_and_each_is_one_line_of_the_ledger(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    corpus = tmp_path / "papers"
    write_lines(corpus / "good.jsonl", [paper(n) for n in range(60)])
    write_lines(corpus / "terminal.jsonl", [paper(70, title=f"{ESCAPE}Tin"), paper(71, id=f"{ESCAPE}x")])
    (corpus / f"name{ESCAPE}.bin").write_bytes(b"\0\1\2")
    slips = ("../../slip.json", "/slip.json", "..\\slip.json", "C:\\slip.json")
    (corpus / "slip.zip").write_bytes(zip_of(*((slip, json.dumps(paper(90, title=SECRET))) for slip in slips)))
    quine = json.dumps(paper(1))
    for number in range(12):
        quine = zip_of((f"{number}.zip" if number else "a.json", quine))
    (corpus / "quine.zip").write_bytes(quine)
    (corpus / "links.tar").write_bytes(tar_of(("evil.json", "/etc/passwd")))
    (corpus / "passwd").symlink_to("/etc/passwd")
    (corpus / "xxe.xml").write_text(
        DOCTYPES["file"][0].replace("{0}", "/etc/passwd") + XML["jats"].replace("{0}", f"&x; {prose(77)}")
    )
    write_lines(tmp_path / "general.jsonl", [{"text": prose(n)} for n in range(8)])
    before = {p for p in tmp_path.rglob("*") if not p.is_relative_to(tmp_path / "out")}
    source = {"name": "s", "path": str(corpus)}
    assert build(tmp_path, values(tmp_path, "out", [source]) | {"max_drop_share": 0.5}) == 0
    printed = capsys.readouterr()
    after = {p for p in tmp_path.rglob("*") if not p.is_relative_to(tmp_path / "out")}
    assert after - before == {tmp_path / "corpus.yaml"}  # nothing is written outside OUT
    lines = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    said = {(line["origin"].rsplit("#")[0].split("/")[0], line["reason"]) for line in lines}
    assert {(name, "unreadable_file") for name in ("links", "quine", "passwd", "slip")} <= said
    assert ("xxe.xml", "entities_refused") in said
    assert sum(line["origin"].startswith("slip/") for line in lines) == 4
    everything = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert b"root:" not in everything
    assert SECRET.encode() not in everything
    for text in (printed.out, printed.err, (tmp_path / "out/dropped.jsonl").read_text()):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text.replace("\r\n", "\n"))


def test_what_an_error_quotes_of_a_hostile_corpus_cannot_command_the_terminal(tmp_path, capsys):
    corpus = tmp_path / "papers"
    corpus.mkdir()
    (corpus / f"x{ESCAPE}.json").write_text(f"{ESCAPE} not a paper")
    write_lines(tmp_path / "general.jsonl", [{"text": prose(n)} for n in range(8)])
    assert build(tmp_path, values(tmp_path, "out", [{"name": "s", "path": str(corpus)}])) == 2
    assert cli.main(["corpus", f"{ESCAPE}.yaml"]) == 2
    errors = capsys.readouterr().err
    assert "[source-unreadable]" in errors
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", errors)


def test_lines_of_a_tagged_file_have_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(tagged, "MAX_LINE_CHARS", 1_000)
    (tmp_path / "a.ris").write_text("TY  - JOUR\nTI  - Tin\nAB  - " + "Whiskers " * 1_000 + "\nER  - \n")
    (document,) = read(tmp_path)
    assert document.title == "Tin"
