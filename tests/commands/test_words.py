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
        ("chat DIR", "verb-unknown", None),
        ("evaluate DIR", "verb-unknown", "eval DIR"),
        ("export --base B", "verb-unknown", "merge --base B"),
        (f"{NANO} seed=1", "verb-unknown", f"train {NANO} seed=1"),
        # a recipe, a folder or a model, which stand alone
        (f"train --config {NANO}", "option-unknown", f"train {NANO}"),
        (f"train --recipe={NANO} seed=1", "option-unknown", f"train {NANO} seed=1"),
        ("sft --lr 1e-4 -c R.yaml", "option-unknown", "sft optimizer.learning_rate=1e-4 R.yaml"),
        ("corpus config=R.yaml", "word-is-option", "corpus R.yaml"),
        ("eval --config_file R.yaml max_items=3", "option-unknown", "eval R.yaml max_items=3"),
        (f"phase1 --config {NANO}", "option-unknown", "phase1 --recipes recipes/nano"),
        ("show --run R --output x.png", "option-unknown", "show R --out x.png"),
        ("audit --data f.json g.json", "option-unknown", "audit f.json g.json"),
        ("completion --shell bash", "option-unknown", "completion bash"),
        ("eval --model hf --model_args pretrained=X,dtype=float --limit 3", "option-unknown", "eval X --max-items 3"),
        ("eval --model_name_or_path X --output_path O", "option-unknown", "eval X --out O"),
        ("eval --model vllm --model_args peft=A,pretrained=X", "option-unknown", "eval --backend vllm A"),
        # weights of adapters
        ("merge --adapter A --weight 0.5 --base B", "option-unknown", "merge --adapter A:0.5 --base B"),
        ("merge --weights=0.7,0.3 --adapter A --adapter=C", "option-unknown", "merge --adapter A:0.7 --adapter=C:0.3"),
        ("merge --lora A C --weights 0.7 0.3", "option-unknown", "merge --adapter A:0.7 --adapter C:0.3"),
        ("merge m.yaml --weight 0.5", "option-unknown", None),
        ("merge --adapter A --adapter C --weight 0.5", "option-unknown", None),
        # values in several words
        ("merge --adapter b c --out O", "words-apart", "merge --adapter b --adapter c --out O"),
        ("eval D --file open=f.json moves=g.json", "words-apart", "eval D --file open=f.json --file moves=g.json"),
        ("train R.yaml --target-modules q k", "option-unknown", "train R.yaml 'adapter.targets=[q, k]'"),
        ("train R.yaml target_modules=q k seed=1", "words-apart", "train R.yaml 'adapter.targets=[q, k]' seed=1"),
        ("sft --data=a.json b.json R.yaml", "option-unknown", "sft 'data=[a.json, b.json]' R.yaml"),
        ("sft R.yaml data=[a.json, b.json]", "words-apart", "sft R.yaml 'data=[a.json, b.json]'"),
        ("sft R.yaml fields={input: q, output: a} seed=1", "words-apart",
         "sft R.yaml 'fields={input: q, output: a}' seed=1"),
        ("corpus R.yaml --sources p q", "option-unknown",
         "corpus R.yaml 'sources=[{name: p, path: p}, {name: q, path: q}]'"),
        ("plan phase1.adapter.targets=q k", "words-apart", "plan 'phase1.adapter.targets=[q, k]'"),
        # keys that this verb's recipe has, or none
        ("eval a --limit 10", "option-unknown", "eval a --max-items 10"),
        ("eval R.yaml --limit=10", "option-unknown", "eval R.yaml max_items=10"),
        ("eval-run --limit 10", "option-unknown", "eval-run eval.max_items=10"),
        ("eval a --batch-size 4", "option-unknown", "eval a"),
        ("eval --apply_chat_template a --num_fewshot=5 --bf16 true", "option-unknown", "eval a"),
        ("eval a --device cuda:0", "option-unknown", None),
        ("tasks R.yaml --batch_size 4", "option-unknown", None),
        ("merge --base B --device cpu", "option-unknown", None),
        ("merge R.yaml --device cpu", "option-unknown", "merge R.yaml execution.device=cpu"),
        ("merge --model B --lora A --output_dir O --max_shard_size 2GB", "option-unknown",
         "merge --base B --adapter A --out O --shard-bytes 2e9"),
        ("merge --bf16 --base B --trust_base", "option-unknown", "merge --dtype bfloat16 --base B --trust-base"),
        ("phase1 --row_tokens 512 --model_name M", "option-unknown", "phase1 corpus.row_tokens=512 --model M"),
        ("train R.yaml --stage pt --do_train --lora_dropout 0.1 --lr 1", "option-unknown",
         "train R.yaml optimizer.learning_rate=1"),
        ("train --load_in_4bit R.yaml", "option-unknown", "train quantisation=nf4 R.yaml"),
        ("sft R.yaml --template qwen", "option-unknown", None),
        ("train R.yaml --seed", "option-unknown", None),
    ],
)  # fmt: skip
def test_a_wrong_word_is_answered_by_the_command_to_type(line, code, right):
    with raises(code) as caught:
        parse(shlex.split(line))
    told = str(caught.value)
    if right is None:
        assert "Type: nsllm-lite" not in told
    else:
        assert told.endswith(f"Type: nsllm-lite {right}")
        parse(shlex.split(right))


def test_words_that_are_left_out_are_said_with_the_reason():
    with raises("option-unknown", "stage: ", "; lora_dropout: dropout is 0)"):
        parse(["train", "R.yaml", "--stage", "pt", "--lora-dropout=0.1"])
    with raises("verb-unknown", "'mrege'", "nsllm-lite merge --help"):
        parse(["help", "mrege"])
    with raises("option-unknown", "template=chat"):
        parse(["sft", "R.yaml", "--template", "qwen"])
    with raises("option-unknown", "phase1.budget.tokens_per_step=N"):
        parse(["phase1", "--batch-size", "4"])


@pytest.mark.parametrize("words", ["help", "help help", "help merge", "merge help", "merge -help", "version", "-v"])
def test_help_is_given_however_it_is_asked_for(words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(words.split())
    assert caught.value.code == 0
    usage = f"usage: nsllm-lite {'merge ' if 'merge' in words else ''}[-h]"
    assert capsys.readouterr().out.startswith(usage if "help" in words else "nsllm-lite 0.")


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
