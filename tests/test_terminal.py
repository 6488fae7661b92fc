"""Tables on a terminal; in pipes and logs the same as plain lines, whole, and without a control character."""

import contextlib
import os
import pty

import pytest

from nsllm_lite import cli, terminal
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.terminal import progress

HEADS = ("name", "tokens", "what it is")
ROWS = [("phase1", "1,000", "word " * 40), ("a/very/long/path" * 8, "20", "")]


@pytest.fixture
def columns(monkeypatch):
    """A function that makes stdout look like a terminal of so many columns."""

    def of(width: int) -> None:
        monkeypatch.setattr(terminal, "on_terminal", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))

    return of


def letters(text: str) -> str:
    return "".join(text.split())


def test_in_a_pipe_lines_are_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    terminal.table(HEADS, ROWS, right=("tokens",))
    terminal.row(("Model", "x" * 200), (10,))
    head, first, second, model = capsys.readouterr().out.splitlines()
    assert head.startswith("name ")
    assert first.startswith("phase1 ")
    assert first.endswith(ROWS[0][2].rstrip())
    assert second == f"{ROWS[1][0]}      20"
    assert head.index("tokens") + len("tokens") == first.index("1,000") + len("1,000") == len(second)
    assert model == "Model      " + "x" * 200


def test_a_terminal_folds_and_loses_nothing(capsys, columns):
    columns(60)
    terminal.table(HEADS, ROWS, right=("tokens",))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 60
    assert "─" in text
    assert "…" not in text
    assert letters(text).count("word") == 40
    terminal.row(("Model", "one two " * 20), (10,))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2
    assert {line[:11] for line in lines[1:]} == {" " * 11}  # what follows stays within its column


def test_a_table_too_wide_for_the_terminal_comes_in_blocks(capsys, columns):
    columns(40)
    heads = tuple(f"column-{number}" for number in range(9))
    terminal.table(heads, [("model", *(f"0.{number}00" for number in range(8)))])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["model"]
    assert lines[1:9] == [[f"column-{number + 1}", f"0.{number}00"] for number in range(8)]


def test_markdown_is_itself_in_a_pipe_and_drawn_on_a_terminal(capsys, columns):
    text = "# Scores\n\n| | loss |\n|---|---:|\n| base [x] | **2.5** |\n\n**Doubtful:** <why>"
    terminal.markdown(text)
    assert capsys.readouterr().out == text + "\n"
    columns(80)
    terminal.markdown(text)
    drawn = capsys.readouterr().out
    assert "|" not in drawn
    assert "*" not in drawn
    for word in ("Scores", "loss", "base [x]", "2.5", "Doubtful: <why>"):
        assert word in drawn


def test_one_table_as_markdown_and_html(capsys, columns):
    rows = [("a|b", "1", "<i>\n`x`"), ("`c<|`'`", "", "\x1b[2J")]
    text = terminal.as_markdown(("", "n", "what"), rows, right=("n",))
    assert text.split("\n") == [
        "| | n | what |", "|---|---:|---|", r"| a\|b | 1 | &lt;i> `x` |", r"| `c<\|''` | | \x1b[2J |",
    ]  # fmt: skip
    columns(80)
    terminal.markdown(text)
    assert ["a|b", "1", "&lt;i>", "`x`"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert terminal.as_html(("a & b", "n"), [("<script>", "x" * 61)]) == (
        "<table><tr><th>a &amp; b</th><th>n</th></tr><tr><td>&lt;script&gt;</td><td class=long>" + "x" * 61
        + "</td></tr></table>"
    )  # fmt: skip


def test_colours_are_for_terminals_only(tmp_path, capfd, monkeypatch):
    """The command itself, in a pipe and in a terminal."""
    write_json(tmp_path / "merged/manifest.json", {
        "verb": "merge", "recipe": {"base": "B", "adapter": "A"}, "inputs": {}, "results": {},
    })  # fmt: skip
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["runs", str(tmp_path)]) == 0
    piped = capfd.readouterr().out
    assert [line.split()[:2] for line in piped.splitlines()] == [["run", "step"], [f"{tmp_path}/merged", "merge"]]
    assert "\x1b" not in piped
    assert "\r" not in piped
    ours, theirs = pty.openpty()
    with open(theirs, "w") as screen, contextlib.redirect_stdout(screen):
        assert cli.main(["runs", str(tmp_path)]) == 0
    assert b"\x1b[1m" in os.read(ours, 10_000)
    os.close(ours)


def test_progress_in_a_log_is_lines(capsys):
    with progress(3, 0, "a run", "step") as bar:
        bar.delay = bar.mininterval = 0
        bar.update()
        bar.update()
    text = capsys.readouterr().err
    assert "\r" not in text
    lines = [line for line in text.splitlines() if "a run" in line]  # an older bar may end meanwhile
    assert len(lines) >= 2
    assert all(line.startswith("a run:") for line in lines)
    assert "2/3" in lines[-1]
