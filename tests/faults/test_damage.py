"""Files cut short or with a bit turned over: the command that reads them says which, or takes a good copy."""

import json
import random
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from safetensors.torch import load_file, save_file

from nsllm_lite import cli
from nsllm_lite.artifact import integrity
from nsllm_lite.corpus import build
from nsllm_lite.errors import UserError
from nsllm_lite.evals.instruct_files import make_tasks
from nsllm_lite.formats import weights
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.models.engines import open_engine
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.corpus import Corpus
from nsllm_lite.recipe.evals import EvalExecution
from nsllm_lite.train import checkpoint, cpt
from tests.conftest import SHAPE, pico_values
from tests.corpus.small import digests, paper, sample, values, write_sources
from tests.faults.hostile import merge_words
from tests.merge.make import edit_json
from tests.models.make import load_plain
from tests.raising import raises


def damages(path: Path, flips: int, seed: int = 0, within: int | None = None) -> Iterator[str]:
    """Each damage in turn lies in `path`, told in words; then the file is whole again.

    Bits are turned in the first `within` bytes. The last byte of JSON is a line end, without which it says the same;
    and without the name of its seal there is nothing to check, and nothing else is wrong.
    """
    whole = path.read_bytes()
    rng = random.Random(seed)
    name_of_seal = range(whole.find(b'"seal"'), whole.find(b'"seal"') + len('"seal"')) if b'"seal"' in whole else ()
    places = [place for place in range(within or len(whole)) if place not in name_of_seal]
    try:
        for cut in (2 if path.suffix == ".json" else 1, len(whole) // 2, len(whole)):
            path.write_bytes(whole[: len(whole) - cut])
            yield f"{path}: {cut} bytes cut off"
        for _ in range(flips):
            place, bit = rng.choice(places), rng.randrange(8)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            yield f"{path}: bit {bit} of byte {place} turned over"
    finally:
        if path.parent.is_dir():
            path.write_bytes(whole)


def refused(command: Callable[[], object], capsys, path: Path, what: str, code: str = "") -> None:
    """The command ends with status 2, or with UserError, and one error that names the file and has that code."""
    capsys.readouterr()
    try:
        status = command()
    except UserError as error:
        status, said = 2, f"{error} [{error.code}]"
    else:
        said = capsys.readouterr().err
    assert status == 2, what
    assert path.name in said, f"{what}: {said}"
    assert not code or f"[{code}]" in said, f"{what}: {said}"
    assert "Traceback" not in said, what


@pytest.fixture(scope="module")
def chain(pico, tmp_path_factory) -> Path:
    """base/model made by training from nothing, phase/adapter trained on it, merged; and their recipes."""
    root = tmp_path_factory.mktemp("chain")
    shutil.copytree(pico, root / "pico")
    budget = {"steps": 3, "tokens_per_step": 256, "tokens": 768}
    common = {"budget": budget, "checkpoint_steps": 1, "keep_checkpoints": 3}
    base = {**pico_values(root / "pico", root / "base"), **common, "model": None, "adapter": "none"}
    base |= {"build": {**SHAPE, "tokenizer": str(root / "pico/tokenizer")}, "quantisation": "none", "replay": "none"}
    cpt.train(recipes.validate(base, "base"))
    phase = {**pico_values(root / "pico", root / "phase"), **common, "model": str(root / "base/model")}
    cpt.train(recipes.validate(phase, "phase"))
    (root / "phase.yaml").write_text(yaml.safe_dump(phase))
    assert cli.main(merge_words(root / "base/model", root / "phase/adapter", root / "merged")) == 0
    return root


def train_words(root: Path, out: str | Path, *changes: str) -> list[str]:
    return ["train", str(root / "phase.yaml"), f"out={root / out}", *changes]


READ_BY = tomllib.loads((Path(__file__).parents[1] / "data/faults/read_by.toml").read_text())


def run_again(command: str, root: Path, name: str) -> object:
    """Runs what reads the file `name` of the chain."""
    if command == "eval":
        return open_engine(str(root / "merged"), device="cpu", how=EvalExecution())
    if command == "merge":
        return cli.main(merge_words(root / "base/model", root / "phase/adapter", root / "merged-again"))
    return cli.main(train_words(root, "phase" if "manifest" in name else "again"))


@pytest.mark.parametrize("flips", [1, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", READ_BY)
def test_what_we_wrote_is_checked_by_whoever_reads_it(chain, capsys, command, flips):
    for name in READ_BY[command]:
        for what in damages(chain / name, flips):
            refused(lambda name=name: run_again(command, chain, name), capsys, chain / name, what)
    assert not list(chain.glob("merged-again*/*.safetensors"))


def test_files_changed_on_purpose_are_used_once_that_is_said(chain):
    folder = Path(shutil.copytree(chain / "merged", chain / "changed"))
    edit_json(folder / "config.json", max_position_embeddings=64)
    with raises("file-changed", folder / "config.json", folder / "files.json"):
        load_plain(folder)
    (folder / "files.json").unlink()
    assert load_plain(folder).config.max_position_embeddings == 64


def sums_of(base: Path) -> dict[str, float]:
    return {name: tensor.sum().item() for name, tensor in load_plain(base).named_parameters()}


@pytest.mark.parametrize("shards", [1, 3])
def test_weights_of_others_are_whole_or_refused(pico, chain, capsys, tmp_path, shards):
    """Nobody tells their hashes: cut files and damaged headers are seen, and a tensor that is not there."""
    base = Path(shutil.copytree(pico / "base", tmp_path / "base"))
    if shards > 1:
        load_plain(base).save_pretrained(base, max_shard_size="100KB")
        (base / "model.safetensors").unlink()
    files = sorted(base.glob("*.safetensors"))
    assert len(files) >= shards
    words = train_words(chain, "foreign", f"model={base}")
    header_bytes = int.from_bytes(files[0].read_bytes()[:8], "little")
    whole, errors = sums_of(base), []
    for what in damages(files[0], 25, within=8 + header_bytes):
        try:
            assert sums_of(base) == whole, f"{what}: harmless is a bit of the metadata only"
        except UserError as error:
            errors.append(str(error))
    assert len(errors) > 12
    assert [error for error in errors if files[0].name not in error and "holds no" not in error] == []
    for path in [base / "tokenizer.json", base / "config.json", *base.glob("*.index.json")]:
        code = "tokenizer-damaged" if path.name == "tokenizer.json" else "model-file-wrong"
        for what in damages(path, 0):
            refused(lambda: cli.main(words), capsys, path, what, code)
    files[0].unlink()
    refused(lambda: cli.main(words), capsys, base, "a file that is missing")


def test_a_base_that_changed_after_training_is_not_merged_into(chain, capsys, tmp_path):
    """A base from elsewhere, one bit of which is turned over where its fingerprint does not look."""
    root = tmp_path / "foreign"
    base = Path(shutil.copytree(chain / "base/model", root / "base"))
    (base / "files.json").unlink()
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].repeat(200, 1)[:300].contiguous()
    embeddings = tensors["model.embed_tokens.weight"]
    padding = {f"padding.{n}": embeddings.repeat(20, 1) for n in range(3)}  # beyond 16 x 64 KiB
    save_file(tensors | padding, base / "model.safetensors", {"format": "pt"})
    values = yaml.safe_load((chain / "phase.yaml").read_text()) | {"model": str(base), "out": str(root / "phase")}
    (root / "phase.yaml").write_text(yaml.safe_dump(values))
    assert cli.main(["train", str(root / "phase.yaml")]) == 0
    before = fingerprint_weights(base)
    place = weights.read_header(base / "model.safetensors")["padding.1"].start + 7
    whole = bytearray((base / "model.safetensors").read_bytes())
    whole[place] ^= 1
    (base / "model.safetensors").write_bytes(whole)
    assert fingerprint_weights(base) == before
    words = merge_words(base, root / "phase/adapter", root / "merged")
    refused(lambda: cli.main(words), capsys, base / "model.safetensors", "changed", "merge-base-changed")
    (root / "phase/manifest.json").unlink()  # as if it had been killed
    refused(lambda: cli.main(["train", str(root / "phase.yaml")]), capsys, base / "model.safetensors", "changed")


# ----------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("flips", [3, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_the_same(chain, tmp_path, capsys, name, flips):
    """It goes on from the one before."""
    out = Path(shutil.copytree(chain / "phase", tmp_path / "out"))
    newest = out / "checkpoints/step-000003"
    for what in damages(newest / name, flips):
        assert checkpoint.newest(out / "checkpoints").name == "step-000002", what
        assert f"step-000003: damaged ({name}" in capsys.readouterr().out, what
    (newest / name).write_bytes((newest / name).read_bytes()[:-2])
    (out / "manifest.json").unlink()
    assert cli.main(train_words(chain, out)) == 0
    assert "continuing after step 2" in capsys.readouterr().out
    for file in ("metrics.jsonl", "adapter/adapter_model.safetensors"):
        assert (out / file).read_bytes() == (chain / "phase" / file).read_bytes()
    assert not checkpoint.faults(newest)


def test_a_log_that_lost_lines_is_not_continued(chain, tmp_path, capsys):
    shutil.copytree(chain / "phase", tmp_path / "out")
    (tmp_path / "out/manifest.json").unlink()
    log = tmp_path / "out/metrics.jsonl"
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    refused(lambda: cli.main(train_words(chain, tmp_path / "out")), capsys, log, "half a log")


# ---------------------------------------------------------------------------------------------------------- corpus


@pytest.fixture
def corpus(tmp_path) -> Callable[[str], Corpus]:
    sources = write_sources(tmp_path, arxiv=map(paper, range(40)), full=map(sample, range(12)))
    return lambda out: recipes.validate(values(tmp_path, out, sources), "corpus")


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_a_build_continues_over_damaged_work(corpus, capsys, monkeypatch, every):
    """An unfinished build that is continued with one of its files damaged ends in the same corpus, or names the file.

    Tries one damage of each `every`th file, or with 1 all of all.
    """
    seed, flips = 2, 4
    build.build(corpus("whole"))
    whole = digests(Path(corpus("whole").out))

    with monkeypatch.context() as patch:
        patch.setattr(build, "_finish", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build.build(corpus("stopped"))
    stopped, out = Path(corpus("stopped").out), Path(corpus("broken").out)
    names = [p.relative_to(stopped) for p in sorted(stopped.rglob("*")) if p.is_file() and p.stat().st_size]
    # but what decides which work can be used again, and what is written anew at the end
    left_out = {"reading.json", "later.json", "dropped.jsonl", "ledger.parquet", "ledger_files.parquet"}
    names = [name for name in names if name.name not in left_out or name.parent.name == "00000-000"]
    tries = 0
    for name in names[seed % every :: every]:
        for what in range(3 + flips) if every == 1 else [random.Random(f"{seed}{name}").randrange(3 + flips)]:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(stopped, out)
            for marker in ("reading.json", "later.json"):
                path = out / "work" / marker
                path.write_text(path.read_text().replace("/stopped", "/broken"))
            made = damages(out / name, flips, seed=tries)  # held, because it mends the file when it is let go
            words = [next(made) for _ in range(what + 1)][-1]
            capsys.readouterr()
            refusal = ""
            try:
                build.build(corpus("broken"))
            except UserError as error:
                refusal = str(error)
            assert name.name in refusal or (digests(out) == whole and "is damaged" in capsys.readouterr().out), words
            tries += 1
    assert tries > (300 if every == 1 else 3)


def test_documents_and_ledger_are_checked_by_what_reads_them(corpus, tmp_path, capsys):
    made = corpus("out")
    build.build(made)
    tasks = yaml.safe_load(Path("recipes/nano/tasks.yaml").read_text())
    asked = recipes.validate(tasks | {"corpus": made.out, "out": str(tmp_path / "tasks")}, "tasks")
    for path in [*sorted(Path(made.out).glob("documents/*.parquet")), Path(made.out) / "ledger.parquet"]:
        for what in damages(path, 3):
            refused(lambda: make_tasks(asked), capsys, path, what)
    rows = Path(made.out) / "rows/phase1/train"
    for path in rows.iterdir():
        for what in damages(path, 3):
            refused(lambda: Rows(rows).require_sound(), capsys, path, what)


def test_every_name_that_is_written_down_is_there(chain):
    """And all that decides numbers is among them."""
    for folder, least in (("base/model", 3), ("phase/adapter", 4), ("merged", 3), ("pico/rows/papers/train", 4)):
        known = json.loads((chain / folder / integrity.FILES).read_text())["files"]
        assert len(known) >= least
        assert all((chain / folder / name).stat().st_size == entry["bytes"] for name, entry in known.items())
