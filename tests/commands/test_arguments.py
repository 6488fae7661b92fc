"""The help tells the truth: every example parses, every option is explained, every default is the one that is taken."""

import argparse
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from nsllm_lite import cli
from nsllm_lite.commands import arguments, typed
from nsllm_lite.commands.encoder_run import load_encoder_run
from nsllm_lite.commands.materials_run import load_materials_run
from nsllm_lite.commands.recipe_folder import INSTALLED, pick_size
from nsllm_lite.commands.stories import by_recipe, load_run
from nsllm_lite.models.sizes import QWEN3, REFERENCE, SIZED
from nsllm_lite.recipe.kinds import KINDS

ROOT = Path(__file__).parents[2]
EXAMPLES = [example for verb in arguments.verbs_in_order().values() for example in verb.examples]
EXAMPLES += re.findall(r"^  (nsllm-lite .*?)(?:   .*)?$", arguments.EPILOG, re.MULTILINE)


def parsers() -> dict[str, argparse.ArgumentParser]:
    return next(a for a in arguments.build_parser()._actions if a.dest == "verb").choices


def parsed(line: str) -> argparse.Namespace:
    return arguments.build_parser().parse_args(shlex.split(line.partition(" > ")[0])[1:])


def test_every_verb_is_called():
    assert set(arguments.verbs_in_order()) == {*cli.VERBS, *cli.TOOLS, *cli.STORIES} == set(parsers())
    assert set(cli.VERBS) == set(KINDS)


@pytest.mark.parametrize("name", arguments.verbs_in_order())
def test_each_verb_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    verb = arguments.verbs_in_order()[name]
    assert text.count(f"  nsllm-lite {name}") == len(verb.examples) > 0
    for action in parsers()[name]._actions:
        assert action.help, f"{name} {action.dest}"
        takes_value = action.option_strings and action.nargs != 0
        is_needed = action.dest in ("base", "adapter", "file") or (name, action.dest) == ("merge", "out")
        if takes_value and not is_needed and action.dest != "price":
            assert "(default: " in action.help, f"{name} {action.dest}"


def test_the_exit_status_is_documented(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    for code, words in (
        (0, "done"), (2, "wrong input"), (3, "the run stopped itself"), (75, "the time of"), (130, "interrupted by"),
    ):  # fmt: skip
        assert re.search(rf"^  {code} +{words}", text, re.MULTILINE)
    assert {"143", "129"} <= set(re.findall(r"\d+", text))


def test_the_examples_are_real_commands(monkeypatch):
    """They parse, their recipes are there, and the values they change are values of these."""
    monkeypatch.chdir(ROOT)
    assert len(EXAMPLES) > 35
    for line in EXAMPLES:
        args = parsed(line)
        if args.verb in KINDS and not getattr(args, "compare", False):
            assert typed.recipe_of(args).kind == args.verb
        if args.verb == "encoder":
            load_encoder_run(ROOT / "recipes/nano", overrides=by_recipe(args.overrides))
        elif args.verb == "materials":
            load_materials_run(ROOT / "recipes/nano", overrides=by_recipe(args.overrides))
        elif args.verb in arguments.STORY_VERBS:
            folder, size = pick_size(Path(args.recipes or f"recipes/{'qwen3' if args.size else 'nano'}"), args.size)
            load_run(folder, overrides=by_recipe(args.overrides), size=size)


def stated(verb: str, option: str) -> str:
    action = next(a for a in parsers()[verb]._actions if option in a.option_strings)
    return re.search(r"\(default: ([^),]+)", action.help).group(1)


def test_the_options_of_merge_and_eval_are_those_of_their_recipes(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "run_step", seen.append)
    assert cli.main(["merge", "--base", "B", "--adapter", "A", "--out", "O"]) == 0
    assert cli.main(["eval", "B"]) == 0
    words = "--shard-bytes 2e9 --max-rows 8 --dtype float16 --trust-base --verify --base-weights auto --heldout-rows R"
    assert cli.main(["merge", "--base", "B", "--adapter", "A:0.5", "--out", "O", *words.split()]) == 0
    merge, eval_, changed = seen
    assert (merge.base_weights, merge.shard_bytes, merge.max_rows) == ("original", 5 * 10**9, 64)
    assert not any((merge.then_requantize, merge.trust_base, merge.execution.verify, merge.dtype))
    assert (eval_.out, eval_.seed, eval_.tasks, eval_.execution.backend) == ("runs/eval", 0, "bundled", "transformers")
    assert (changed.shard_bytes, changed.max_rows, changed.dtype) == (2 * 10**9, 8, "float16")
    assert changed.trust_base
    assert changed.execution.verify
    assert stated("merge", "--shard-bytes") == "5e9"
    assert cli.main(["merge", "--base", "B", "--adapter", "A", "--out", "O", "--max-rows", "2.5"]) == 2


def test_the_defaults_of_the_others():
    assert parsed("nsllm-lite runs").folder == Path("runs")
    assert stated("init", "--recipe") == parsed("nsllm-lite init x").recipe == SIZED
    named = next(a for a in parsers()["init"]._actions if a.dest == "recipe").help
    assert all(path.name in named for path in INSTALLED.iterdir())
    named = next(a for a in parsers()["plan"]._actions if a.dest == "size").help
    assert re.findall(r"[\d.]+b\b", named) == [*QWEN3, REFERENCE]
    taken = load_run(ROOT / "recipes/nano", corpus=str(ROOT / "tests"))
    assert taken["corpus"].out == "runs/nano-tests/corpus"  # runs/RECIPES-CORPUS


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "x.yaml", "--save-on-signal", "FOO"], "'FOO'"),
        *((["plan", "--vram", value], value) for value in ("inf", "nan", "-3", "0")),
        (["phase1", "--max-hours", "-1"], "-1"),
    ],
)
def test_a_value_that_is_none_is_refused(capsys, words, named):
    with pytest.raises(SystemExit) as refused:
        cli.main(words)
    assert refused.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_verbs_options_and_paths(shell, capsys, tmp_path):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in arguments.verbs_in_order())
    assert "base-weights" in script
    assert "dequantized" in script
    if shell == "bash":
        path = tmp_path / "nsllm-lite"
        path.write_text(script)
        subprocess.run(["bash", "-n", str(path)], check=True)
        assert complete(path, "nsllm-lite", "inst") == ["instruct"]
        assert complete(path, "nsllm-lite", "completion", "") == ["bash", "zsh", "fish"]
        (tmp_path / "models").mkdir()
        assert complete(path, "nsllm-lite", "show", f"{tmp_path}/mod") == [f"{tmp_path}/models"]


def complete(script: Path, *words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    line = f"""source {script}
      COMP_WORDS=({" ".join(word or "''" for word in words)}); COMP_CWORD={len(words) - 1}
      $(complete -p nsllm-lite | grep -o '_shtab_[a-z_]*'); printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    return [word.strip().rstrip("/") for word in done.stdout.split("\n") if word.strip()]
