"""What is typed by hand: a word that no verb takes is answered by a command that is taken."""

import io
import json
import shlex
import sys

import pytest

from nsllm_lite import cli
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.commands.typed import parse_adapter
from nsllm_lite.commands.words import parse
from tests.raising import fails, raises

NANO = "recipes/nano/phase1.yaml"


@pytest.mark.parametrize(
    ("line", "code", "right"),
    [
        (f"trian {NANO} seed=1", "verb-unknown", f"train {NANO} seed=1"),
        ("two-phases --corpus 'my papers'", "verb-unknown", "two-phase --corpus 'my papers'"),
        (f"train {NANO} --out run --run runs/nano", "option-unknown", f"train {NANO} out=run --run runs/nano"),
        (f"train --out run {NANO}", "option-unknown", f"train out=run {NANO}"),
        (f"train {NANO} --lora_r=8 --epochs", "option-unknown", None),
        (f"train {NANO} --learning-rate 1e-4", "option-unknown", f"train {NANO} optimizer.learning_rate=1e-4"),
        ("sft r.yaml --data a.jsonl --lr 1", "option-unknown", "sft r.yaml 'data=[a.jsonl]' optimizer.learning_rate=1"),
        (f"train {NANO} run=runs/nano seed=1", "word-is-option", f"train {NANO} seed=1 --run runs/nano"),
        ("phase1 --lr 1e-4", "option-unknown", "phase1 phase1.optimizer.learning_rate=1e-4"),
        ("phase1 CORPUS=p OUT=run phase1.seed=1", "word-is-option", "phase1 phase1.seed=1 --corpus p --out run"),
        ("merge base=B adapter=A out=O", "word-is-option", "merge --base B --adapter A --out O"),
        ("eval DIR --taks T", "option-unknown", "eval DIR --tasks T"),
        ("eval --jsn DIR", "option-unknown", "eval --json DIR"),
        ("merge --verfy m.yaml", "option-unknown", "merge execution.verify=true m.yaml"),
        ("corpus c.yaml --languages en,zh", "option-unknown", "corpus c.yaml 'languages=[en, zh]'"),
        ("eval DIR out=x json=true", "word-is-option", "eval DIR --out x --json"),
        ("show RUN out=x.png", "word-is-option", "show RUN --out x.png"),
        ("plan --only corpus", "option-unknown", None),
        ("dance", "verb-unknown", None),
    ],
)  # fmt: skip
def test_a_wrong_word_is_answered_by_the_command_to_type(line, code, right):
    with raises(code) as caught:
        parse(shlex.split(line))
    told = str(caught.value)
    if right is None:
        assert "nsllm-lite" not in told
    else:
        assert told.endswith(f"Type: nsllm-lite {right}")
        parse(shlex.split(right))


def test_the_order_of_words_is_free():
    for line in (f"train {NANO} --run R seed=1", f"train --run R seed=1 {NANO}", f"train seed=1 {NANO} --run=R"):
        args = parse(shlex.split(line))
        assert (str(args.recipe), args.overrides, args.run) == (NANO, ["seed=1"], "R")


def test_paths_of_every_verb_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("RUNS", "/r")
    assert str(parse(["show", "~/x", "--html=$RUNS/p.html"]).run) == "/h/x"
    assert str(parse(["show", "~/x", "--html=$RUNS/p.html"]).html) == "/r/p.html"
    assert [str(path) for path in parse(["audit", "~/a", "${RUNS}/b"]).files] == ["/h/a", "/r/b"]
    assert parse(["phase1", "--corpus", "~/p", "--out=$RUNS/o"]).corpus == "/h/p"
    for words in (["runs", "$NOPE"], ["init", "~nobody-here/x"], ["plan", "--model=${NOPE}/m"]):
        with raises("path-user-unknown" if "~" in words[1] else "path-variable-unset"):
            parse(words)


def test_a_colon_in_the_name_of_an_adapter(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS", str(tmp_path))
    (tmp_path / "run_13:05").mkdir()
    assert parse_adapter("$RUNS/run_13:05") == {"path": "$RUNS/run_13:05", "weight": 1}
    assert parse_adapter("$RUNS/run_13:05:0.5") == {"path": "$RUNS/run_13:05", "weight": 0.5}
    assert parse_adapter("run_13:05") == {"path": "run_13", "weight": 5}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "gbk", "utf-8"])
def test_a_terminal_that_knows_few_letters_gets_escapes(encoding, tmp_path, monkeypatch):
    """Also a name that is not UTF-8, in help, messages, tables and JSON."""
    folder = tmp_path / "数µ\udcff"
    write_json(folder / "merged/manifest.json", {"verb": "merge", "recipe": {}, "inputs": {}, "results": {}})
    data = tmp_path / "数据.json"
    data.write_text(json.dumps([{"input": "ψ数", "output": word} for word in ("a b c", "d ψ f")]))
    for words in (
        ["runs", folder],
        ["show", folder],
        ["audit", data],
        ["audit", data, "--json"],
        ["runs", "数µ\udcff"],
    ):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            status = cli.main(list(map(str, words)))
            out.flush()
        text = out.buffer.getvalue().decode(encoding)
        assert status == (2 if words[1] == "数µ\udcff" else 0)
        assert text or words[1] == "数µ\udcff"
        if "--json" in words:
            assert "数据.json" in json.loads(text)["files"]


def test_a_price_that_is_none(capsys):
    with pytest.raises(SystemExit):
        cli.main(["plan", "--price", "abc"])
    assert "'abc' is no number above 0" in capsys.readouterr().err
    assert "train" in fails(capsys, "verb-unknown", "trian")
