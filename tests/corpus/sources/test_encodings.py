"""One content in each encoding gives the same documents, and is told apart without a word about it in the file."""

import gzip
import io
import json
import tomllib
import zipfile

import pytest

from nsllm_lite.corpus import sources
from nsllm_lite.corpus.files import encoding
from nsllm_lite.corpus.files.encoding import Decoder, Utf8, decoded, judge, stated_encoding, wide_encoding
from nsllm_lite.corpus.texts.scripts import is_undecodable
from nsllm_lite.recipe.corpus import Source
from tests.corpus.small import DATA

CASES = tomllib.loads((DATA / "encodings.toml").read_text())
EACH = [(language, name) for language, case in CASES.items() for name in case["encodings"]]
NUM = 10
NO_TEXTS = (b"base64", b"undefined", b"idna", b"punycode", b"unicode_escape", b"cp037", b"rot13")
# Read as a larger encoding or an equal one of the same letters.
READ_AS = {"gb2312": "gb18030", "big5": "big5hkscs", "cp950": "big5hkscs", "shift_jis": "cp932", "euc_kr": "cp949"}
READ_AS |= {"koi8-r": "koi8_u", "koi8-u": "koi8_u", "latin-1": "cp1252", "iso8859-2": "iso8859_2"}


def papers(text):
    """(title, abstract) of papers of one language: the text begun at each of its places in turn."""
    return [(f"{text[:12]} {n}", f"{text[n:]} {text[:n]} ({n})") for n in range(NUM)]


def written(form, papers):
    match form:
        case "ris":
            return "".join(f"TY  - JOUR\nTI  - {t}\nAB  - {a}\nER  - \n\n" for t, a in papers)
        case "csv":
            return "title,abstract\n" + "".join(f'"{t}","{a}"\n' for t, a in papers)
        case "jsonl":
            return "".join(json.dumps({"title": t, "abstract": a}, ensure_ascii=False) + "\n" for t, a in papers)
        case "bib":
            return "".join(
                f"@article{{k{n},\n title = {{{t}}},\n abstract = {{{a}}}\n}}\n" for n, (t, a) in enumerate(papers)
            )
        case "xml":
            body = "".join(
                f"<PubmedArticle><MedlineCitation><PMID>{n}</PMID><Article><ArticleTitle>{t}</ArticleTitle><Abstract>"
                f"<AbstractText>{a}</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>\n"
                for n, (t, a) in enumerate(papers)
            )
            return f'<?xml version="1.0" encoding="UTF-8"?>\n<PubmedArticleSet>{body}</PubmedArticleSet>'


def read(path, content):
    path.write_bytes(content)
    source, found = Source(name="s", path=str(path)), sources.Found(set(), {})
    (file,) = sources.files_of(source)
    records = [(r.title, r.abstract) for r in sources.read(source, file, False, found)]
    return records, set().union(*found.encodings.values())


@pytest.mark.parametrize("form", ["ris", "csv", "jsonl", "bib", "xml"])
@pytest.mark.parametrize("language", CASES)
def test_each_encoding_gives_the_documents_of_utf_8(tmp_path, language, form):
    content = written(form, papers(CASES[language]["text"]))
    expected, found = read(tmp_path / "a", content.encode())
    assert (len(expected), found) == (NUM, set())
    for name in CASES[language]["encodings"]:
        records, found = read(tmp_path / "a", content.encode(name))
        assert records == expected, name
        assert len(found) == 1, (name, found)


@pytest.mark.parametrize(("language", "name"), EACH)
def test_one_record_is_enough_and_its_encoding_is_named(tmp_path, language, name):
    content = written("ris", papers(CASES[language]["text"])[:1])
    records, found = read(tmp_path / "a", content.encode(name))
    assert records == read(tmp_path / "a", content.encode())[0]
    same = {READ_AS.get(name, name)} | ({"cp1250"} if name == "iso8859-2" else set())
    assert found <= same


def test_packed_files_are_read_alike(tmp_path):
    content = written("csv", papers(CASES["zh"]["text"])).encode("gbk")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b.csv", content)
    expected = read(tmp_path / "a", content)[0]
    for packed in (gzip.compress(content), (tmp_path / "a.zip").read_bytes()):
        assert read(tmp_path / "b", packed) == (expected, {"gb18030"})


def in_blocks(content, stated=""):
    used = set()
    return io.BufferedReader(Utf8(io.BytesIO(content), Decoder(stated, used))).read().decode(), used


@pytest.mark.parametrize("block", [64, 1 << 18])
def test_bytes_are_decoded_where_they_stand(monkeypatch, block):
    """After much that is ASCII, among UTF-8, and where files of three encodings were joined to one."""
    monkeypatch.setattr(encoding, "BLOCK_BYTES", block)
    english, chinese, russian = (CASES[language]["text"] for language in ("en", "zh", "ru"))
    assert in_blocks(b"tin\n" * 30_000 + english.encode("latin-1"))[0] == "tin\n" * 30_000 + english
    stray = f"{chinese}\n".encode() + b"at 25 \xb0C\n" + "≤ α\n".encode()
    assert in_blocks(stray) == (f"{chinese}\nat 25 °C\n≤ α\n", {"cp1252"})
    if block > 64:
        joined = f"{chinese}\n".encode() + f"{chinese}\n".encode("gbk") + b"Schr\xf6dinger\n" + "25 °C\n".encode()
        assert in_blocks(joined) == (f"{chinese}\n{chinese}\nSchrödinger\n25 °C\n", {"gb18030", "cp1252"})
    else:
        monkeypatch.setattr(encoding, "BLOCK_BYTES", 600)
        joined = [f"{text}\n".encode(name) * 9 for text, name in ((chinese, "gbk"), (russian, "koi8-r"))]
        assert in_blocks(b"".join(joined))[0] == f"{chinese}\n" * 9 + f"{russian}\n" * 9


def test_a_broken_character_spoils_itself_only():
    chinese = CASES["zh"]["text"]
    line = chinese.encode("gbk")
    text, used = in_blocks(b"\n".join([line, line[:-5] + b"\xff", line]))
    assert used == {"gb18030"}
    assert text.split("\n")[::2] == [chinese, chinese]
    assert text.split("\n")[1][:60] == chinese[:60]


@pytest.mark.parametrize("name", ["gbk", "shift_jis"])
def test_utf_8_stays_so_beside_a_record_of_another_encoding(name):
    language = {"gbk": "zh", "shift_jis": "ja"}[name]
    utf8 = "TY  - JOUR\nAB  - at 5 ± 2 K of Erdős\nER  - \n" * NUM
    for num in (NUM, 1):
        other = CASES[language]["text"]
        assert in_blocks(utf8.encode() * num + other.encode(name))[0] == utf8 * num + other


@pytest.mark.parametrize(
    ("damaged", "expected"),
    [
        (b"a \xed\xa0\xbd\xed\xb8\x80 b", "a 😀 b"),  # CESU-8
        (b"1\xe2\x80 2 and caf\xc3\xa9", "1\ufffd 2 and café"),
        ("温度".encode()[:-1] + b" is 5", "温\ufffd is 5"),
        (b"25 \xc2C", "25 \ufffdC"),
        (b"Schr\xf6dinger, 25 \xb0C", "Schrödinger, 25 °C"),
        (b"Jos\xe9\x92s \xc5ngstr\xf6m", "José’s Ångström"),
        (b"o m\xe9todo \xe9 \xe0 1.5 \xc5, 3 \xd7 4", "o método é à 1.5 Å, 3 × 4"),
        (b"25 \xa1\xe6 \xa1\xc0 2", "25 ℃ ± 2"),  # of a Chinese program
        (b"\xd6\xd0\xce\xc4", "\ufffd"),  # too few bytes to be Chinese by
    ],
)
def test_damage_in_utf_8_is_lost_and_no_other_language(damaged, expected):
    around = "Méthode 温度 5 ± 2 K\n"
    for num in (1,) if damaged[:1] in b"o\xd6" else (1, NUM):  # of more bytes a language is judged
        assert in_blocks((around.encode() + damaged + b"\n") * num)[0] == f"{around}{expected}\n" * num
    assert decoded(b"25 \xc2C") == "25 \ufffdC"
    assert decoded(b"1\xe2\x80 2") == "1\ufffd 2"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("heated to 25 ℃ ± 5 μm —— α".encode("gbk"), "heated to 25 ℃ ± 5 μm —— α"),  # English of a Chinese program
        (b"25 \xb0C \xb1 5 \xb5m", "25 °C ± 5 µm"),
        (b"na\xefve \x93gap\x94 \x96 Erd\xf6s, Garc\xeda, S\xf8ren", "naïve “gap” – Erdös, García, Søren"),
        ("Müller".encode("latin-1"), "Müller"),
        ("漢字かな".encode("utf-16"), "漢字かな"),
        (b"\xef\xbb\xbfa\xe9", "aé"),
    ],
)
def test_a_few_signs(content, expected):
    assert decoded(content) == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b'<?xml version="1.0" encoding="GB2312"?>', "gb18030"),
        (b'<?xml version="1.0" encoding="utf-8"?>', ""),
        (b"<?xml version='1.0' encoding='no-such'?>", ""),
        *((b"<?xml version='1.0' encoding='%s'?>" % name, "") for name in NO_TEXTS),
        (b"\\documentclass{article}\n\\usepackage[cp1251]{inputenc}", "cp1251"),
        (b"\\usepackage[ansinew]{inputenc}", "cp1252"),
        (b"% This file was created with JabRef.\n% Encoding: UTF-8", ""),
        (b"% Encoding: Cp1250\n@article{a,", "cp1250"),
    ],
)
def test_stated_encodings(head, expected):
    assert stated_encoding(head) == expected


def test_a_statement_is_believed_where_it_fits():
    sparse = "Mr Wałęsa says so. ".encode("cp1250") + b"tin " * 100
    assert (judge([sparse]).alone, judge([sparse], "cp1250").alone) == ("cp1252", "cp1250")
    chinese = CASES["zh"]["text"].encode("gbk")
    assert judge([chinese], "cp1252").rows == judge([chinese], "koi8_u").rows == "gb18030"


def test_binary_files_are_not_taken_for_wide_text():
    for content in (
        bytes(range(256)) * 20,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0" * 20,
        b"text\0\0\0\0" * 50,
        b"\0" * 400,
    ):
        assert wide_encoding(content) == ""


@pytest.mark.parametrize(
    ("language", "written_in", "read_in"),
    [
        ("zh", "gbk", "cp1252"), ("zh-tw", "big5", "gbk"), ("zh", "utf-8", "gbk"), ("ko", "euc_kr", "gbk"),
        ("zh", "gbk", "cp949"), ("ru", "koi8-r", "cp1251"), ("ru", "cp1251", "latin-1"), ("ja", "shift_jis", "cp437"),
        ("ja", "euc_jp", "cp932"),
    ],
)  # fmt: skip
def test_text_that_others_read_wrongly_is_known(language, written_in, read_in):
    text = CASES[language]["text"]
    assert is_undecodable(text.encode(written_in).decode(read_in, "replace"))
    assert not is_undecodable(text)


@pytest.mark.parametrize("language", CASES)
def test_real_languages_are_not_undecodable(language):
    assert not is_undecodable(CASES[language]["text"] * 3)
    assert not is_undecodable(CASES[language]["text"].upper())


@pytest.mark.parametrize("line", ["治北省", "稀元强节", "钾北日复动十却稀品", "锂科"])
def test_a_short_line_in_gbk_may_be_utf8_in_part(line):
    text = f"%X 采用电镀法在铜片上制备了锡膜，在室温下用显微镜每天测量锡须的长度。\n%A {line}\n"
    assert decoded(text.encode("gb18030")) == text


@pytest.mark.parametrize("sign", ["\xad", "\u200b", "\u200e", "\u2060"])
def test_utf_16_without_a_mark_may_hold_what_is_not_seen(tmp_path, sign):
    text = written("ris", papers("Whiskers of tin grow on copper. " * 9))
    content = text.replace("i", f"i{sign}", 3).encode("utf-16-le")
    assert wide_encoding(content[:8192]) == "utf-16-le"
    assert len(read(tmp_path / "a.ris", content)[0]) == NUM
    assert wide_encoding(bytes(range(256)) * 32) == ""
