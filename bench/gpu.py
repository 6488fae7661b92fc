"""The training step on a GPU: speed, memory and gradients, beside what is predicted and beside TRL and Unsloth.

    python bench/gpu.py --short                                does all of it work here, and how fast? see gpu_short.py
    python bench/gpu.py --json OUT.json                        all sections, as far as nine minutes go (--minutes)
    python bench/gpu.py --only step caps --base FOLDER         some; the base stays in FOLDER for the next time
    python bench/gpu.py --wheels FOLDER --only peers           packages from wheels, where there is no network
    python bench/gpu.py --rows FOLDER --only agreement         packed rows of one's own, in place of the sample's
    python bench/gpu.py --device cpu --tiny                    the script itself, on a pico model

ceilings   matrix product and copy: the most that this card does. Always measured.
step       Qwen3-8B's shape (random weights: speed does not depend on them) in NF4 with LoRA of rank 64, rows of 4,096,
           as `execution` would have it and in other ways; compiled, and the same not compiled. Rows are full, nothing
           is padded; their tokens are random, which speed does not depend on.
profile    the kernels that take most time in one step, and how often the host waits for the card.
head       the loss from the last hidden states and back: Liger's and ours in chunks of several sizes, and the share of
           the chosen step that each would be.
agreement  LoRA's gradients, and 60 steps on the same 8 rows of real text, of a small model, beside transformers and
           PEFT with each document alone, and beside the peers. The exit status is 1 where they differ, or where
           something fails.
caps       what would be chosen for a smaller card, with torch held to that card's memory.
peers      TRL's SFTTrainer and Unsloth on the same base and rows.

Each figure is in the JSON as soon as it is printed. Wheels in FOLDER/trl or FOLDER/unsloth are for that peer alone.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

if __name__ == "__main__" and "--wheels" in sys.argv:  # start again, before anything that they may hold is imported
    place = sys.argv.index("--wheels")
    given = Path(sys.argv[place + 1])
    with tempfile.TemporaryDirectory() as sites:
        for folder, site in [(given, "all"), *((each, each.name) for each in given.glob("*/"))]:
            wheels = [str(path) for path in sorted(folder.glob("*.whl"))]
            options = ["-q", "--no-compile", "--no-deps", "--no-index", "--find-links", folder, "--target"]
            command = [sys.executable, "-m", "pip", "install", *options, f"{sites}/{site}", *wheels]
            if wheels:
                subprocess.run(command, check=True)
        paths = {"BENCH_SITES": sites, "PYTHONPATH": f"{sites}/all{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        words = [sys.executable, __file__, *sys.argv[1:place], *sys.argv[place + 2 :]]
        sys.exit(subprocess.call(words, env=os.environ | paths))

import argparse
import gc
import importlib.util
import inspect
import json
import math
import re
import signal
import statistics
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import compress, cycle, pairwise
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import profile

from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.artifact.step import versions_of
from nsllm_lite.commands.stories import load_run
from nsllm_lite.corpus import sources
from nsllm_lite.corpus.texts.render import phase1_text
from nsllm_lite.corpus.tokenizer import load_tokenizer
from nsllm_lite.formats.rows import Row, Rows, in_groups
from nsllm_lite.kernels.linear_cross_entropy import IGNORE, linear_cross_entropy
from nsllm_lite.models import execution
from nsllm_lite.models.cards import speed_of
from nsllm_lite.models.causal import PackedLM, autocast, collate
from nsllm_lite.models.device import Card, find_device
from nsllm_lite.models.execution import memory
from nsllm_lite.models.heldout import sample_rows
from nsllm_lite.models.sizes import QWEN3, REFERENCE, ModelSize, flops_per_token
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.corpus import Source
from nsllm_lite.recipe.train import Execution, Train
from nsllm_lite.train import setup
from nsllm_lite.train.gradients import Gradients
from nsllm_lite.train.outputs import peak_memory_bytes

RECIPES = Path(__file__).parents[1] / "recipes/qwen3"
SECTIONS = ("ceilings", "step", "profile", "head", "agreement", "caps", "peers")
PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes", "liger-kernel", "trl", "unsloth")
STEP_ROWS = 8
CAPS = ((21.5, 23.6), (37, 40), (74, 80))  # GiB: what torch may take, and the card that is planned for
SMALL = ModelSize(layers=4, hidden=512, intermediate=1536, query=512, key_value=256, vocab=4096, tied=False)
PICO = ModelSize(layers=2, hidden=128, intermediate=256, query=128, key_value=64, vocab=512, tied=False)
HEAD_TOKENS, HEAD_CHUNKS = (4096, 8192, 16384, 32768), (512, 1024, 2048, 4096, 8192)
SMALLEST_COSINE, FURTHEST_END = 0.999, 0.02
COLUMNS = {"section": "", "what": "", "tokens_per_s": ",.0f", "ms_per_step": ",.0f", "mfu": ".1%", "of_ceiling": ".1%"}
COLUMNS |= {"peak_gib": ".2f", "predicted_gib": ".2f", "took_s": ".0f", "note": ""}


@dataclass(frozen=True)
class Bench:
    """What is measured, on what and for how long."""

    options: argparse.Namespace
    recipe: Train
    size: ModelSize
    head_dim: int
    row_tokens: int
    base: Path
    device: str
    card: Card
    deadline: float

    def choose(self, card: Card | None = None, **asked: object) -> Execution:
        recipe = self.recipe.model_copy(update={"execution": Execution(**asked)})
        return execution.choose(recipe, self.size, self.row_tokens, card or self.card)

    def real_rows(self) -> list[Row]:
        """Rows of text, no longer than `row_tokens`: of the folder that was named, or beginnings of sample papers.

        Text becomes tokens by the tokenizer beside the base if that knows its characters; else each word is hashed.
        """
        if self.options.rows:
            given = Rows(self.options.rows)
            rows = sample_rows(given, STEP_ROWS)
            if len(rows) < STEP_ROWS:
                raise ValueError(f"{given.path} holds {len(rows)} rows; {STEP_ROWS} are needed. Name another --rows.")
            return [begin_of(row, self.row_tokens, self.size.vocab) for row in rows]
        papers, rows = sample_tokens(self.base, self.size.vocab), []
        for row in self.rows(self.row_tokens // 2):
            documents = [next(papers)[:length] for length in row.doc_lengths]
            ids, lengths = np.concatenate(documents), [len(each) for each in documents]
            rows.append(Row(ids, lengths, row.doc_ids, row.doc_sources, row.doc_bytes))
        return rows

    def rows(self, doc_tokens: int) -> list[Row]:
        """Full rows of random tokens; documents are of about `doc_tokens`, half as many more or less."""
        rng, rows = np.random.default_rng(0), []
        for _ in range(STEP_ROWS):
            shares = np.cumsum(rng.uniform(0.5, 1.5, self.row_tokens // doc_tokens))
            lengths = np.diff(np.round(shares / shares[-1] * self.row_tokens).astype(int), prepend=0).tolist()
            ids, names = rng.integers(0, self.size.vocab, self.row_tokens).astype(np.int32), ["bench"] * len(lengths)
            rows.append(Row(ids, lengths, names, names, [4 * n for n in lengths]))
        return rows


def begin_of(row: Row, row_tokens: int, vocab: int) -> Row:
    """Its first `row_tokens` tokens, without documents of one token; ids that the model lacks are folded in."""
    ends = np.minimum(np.cumsum(row.doc_lengths), row_tokens)
    lengths = [int(n) for n in np.diff(ends, prepend=0) if n > 0]
    ids = row.input_ids[: sum(lengths)]
    long = [n > 1 for n in lengths]
    ids, lengths = ids[np.repeat(long, lengths)], list(compress(lengths, long))
    return Row(
        ids % vocab, lengths, *(list(compress(names, long)) for names in (row.doc_ids, row.doc_sources)), lengths
    )


def sample_tokens(base: Path, vocab: int) -> Iterator[np.ndarray]:
    """The ids of each of the bundled sample papers in turn, over and over."""
    source = Source(name="sample", path="bundled:papers")
    papers = [paper for file in sources.files_of(source) for paper in sources.read(source, file, False)]
    tokenizer = load_tokenizer(str(base))
    for paper in cycle(papers):
        text, _ = phase1_text(paper, min_chars=0)
        words = re.findall(r"\s?\w+|[^\w\s]|\s+", text)
        ids = tokenizer.encode(text, add_special_tokens=False).ids or [zlib.crc32(w.encode()) for w in words]
        yield (np.array(ids) % vocab).astype(np.int32)


def make_bench(options: argparse.Namespace, small: bool = False) -> Bench:
    """Of the 8B model, or of the small one for agreement; with `--tiny` either is a pico model."""
    card = find_device(options.device)
    size, head_dim, row_tokens = (SMALL, 128, 256) if small else (QWEN3[REFERENCE][2], 128, 4096)
    if options.tiny:
        size, head_dim, row_tokens = PICO, 64, 64
    recipe, step_tokens = load_run(RECIPES)["phase1"], STEP_ROWS * row_tokens
    optimizer = {"name": "adamw", "learning_rate": 1e-3} if small else {"name": "adamw8bit"}
    changes = {"optimizer": recipe.optimizer.model_dump() | optimizer}
    changes["budget"] = {"steps": 200, "tokens_per_step": step_tokens, "tokens": 200 * step_tokens}
    recipe = recipes.update(recipe, compute_dtype="float32" if card.device == "cpu" else "bfloat16", **changes)
    base, deadline = options.base / ("small" if small else "8b"), time.monotonic() + 60 * options.minutes
    return Bench(options, recipe, size, head_dim, row_tokens, base, card.device, card, deadline)


class Report:
    """What has been found, in a file and as lines of one table."""

    def __init__(self, bench: Bench):
        self.bench, self.found = bench, {"about": about(bench), "entries": []}
        speed = speed_of(bench.card)
        self.peak_flops = 1e12 * (speed.tflops if speed else 0)
        self.matmul_flops = 0.0
        signal.signal(signal.SIGALRM, self.stop)

    def stop(self, *_: object) -> None:
        raise TimeoutError("not done in its time")

    def add(self, section: str, what: str, find: Callable[[], dict], limit_s: float = 0) -> None:
        """Adds what `find` finds, while there is time; where it fails the others are measured all the same.

        With `limit_s` it is begun only if so long is left, and stopped then (at `until`); either is a failure.
        """
        release()
        started = time.monotonic()
        left_s, self.until = self.bench.deadline - started, started + (limit_s or math.inf)
        figures = {"note": "left out: no time"}
        if limit_s:
            figures = {"note": f"left out: may take {limit_s:.0f} s, {left_s:.0f} are left", "failed": True}
        if left_s > limit_s:
            try:
                signal.setitimer(signal.ITIMER_REAL, limit_s)  # 0: never
                figures = find()
            except Exception as error:  # noqa: BLE001
                traceback.print_exc()
                figures = {"note": f"{type(error).__name__}: {error}".splitlines()[0][:200], "failed": True}
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        figures["took_s"] = time.monotonic() - started
        self.matmul_flops = figures.get("matmul_flops", self.matmul_flops)
        if "tokens_per_s" in figures:
            flops = flops_per_token(self.bench.size) * figures["tokens_per_s"]
            figures["mfu"] = flops / self.peak_flops if self.peak_flops else None
            figures["of_ceiling"] = flops / self.matmul_flops if self.matmul_flops else None
        self.found["entries"].append({"section": section, "what": what, **figures})
        print(table_row(self.found["entries"][-1]), flush=True)
        if self.bench.options.json:
            write_json(self.bench.options.json, self.found)

    def beside_chosen(self, found: dict) -> dict:
        """`found` with its speed over that of the step chosen for this card, where both are there."""
        speeds = [e.get("tokens_per_s") for e in self.found["entries"] if e["what"].startswith("chosen, ")]
        if "tokens_per_s" in found and speeds and speeds[0]:
            found["of_chosen"] = found["tokens_per_s"] / speeds[0]
            found["note"] = f"{found['of_chosen']:.2f} x the chosen step; {found['note']}"
        return found


def about(bench: Bench) -> dict:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = bench.card.total_bytes and subprocess.run(query, capture_output=True, text=True).stdout.strip()
    found = {"date": datetime.now().astimezone().isoformat(timespec="seconds"), "driver": driver}
    return found | {"card": bench.card.name, "card_bytes": bench.card.total_bytes, "versions": versions_of(PACKAGES)}


def table_row(entry: dict) -> str:
    cells = [(entry.get(name), how) for name, how in COLUMNS.items()]
    shown = ["" if cell is None else format(cell, how).replace("|", "/") for cell, how in cells]
    return f"| {' | '.join(shown)} |"


def seconds_of(operation: Callable[[], object], count: int, device: str, until: float = math.inf) -> list[float]:
    """Of each of `count` calls, after a first in which kernels are compiled and an optimizer makes its state; at
    `until` (by time.monotonic) no further one is begun."""
    seconds = []
    for _ in range(count + 1):
        started = time.perf_counter()
        operation()
        if device == "cuda":
            torch.cuda.synchronize()
            if not seconds:
                torch.cuda.reset_peak_memory_stats()
        seconds.append(time.perf_counter() - started)
        if len(seconds) > 1 and time.monotonic() > until:
            break
    return seconds[1:]


def release() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def has_package(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


# ---------------------------------------------------------------------------------------------- models and the step


def make_base(bench: Bench) -> None:
    """Random weights in Qwen3's shape, and a tokenizer that peers ask for, in `bench.base`, unless they are there."""
    from tokenizers import Tokenizer
    from tokenizers import models as tokenizer_models
    from transformers import AutoModelForCausalLM, Qwen3Config

    if (bench.base / "tokenizer.json").is_file():  # written last
        return
    size = bench.size
    config = Qwen3Config(
        vocab_size=size.vocab, hidden_size=size.hidden, intermediate_size=size.intermediate,
        num_hidden_layers=size.layers, num_attention_heads=size.query // bench.head_dim,
        num_key_value_heads=size.key_value // bench.head_dim, head_dim=bench.head_dim, tie_word_embeddings=size.tied,
        bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(bench.device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype_of(bench))
    model.save_pretrained(bench.base, max_shard_size="4GB")  # files are read side by side
    del model
    words = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<0>", "pad_token": "<1>"}
    write_json(bench.base / "tokenizer_config.json", words)
    vocab = {f"<{n}>": n for n in range(256)}
    Tokenizer(tokenizer_models.BPE(vocab, [])).save(str(bench.base / "tokenizer.json"))
    release()


def dtype_of(bench: Bench) -> torch.dtype:
    return getattr(torch, bench.recipe.compute_dtype)


class Step:
    """Our step: model and optimizer as `cpt.train` makes them, and what it does with them."""

    def __init__(self, bench: Bench, how: Execution):
        self.bench, self.how, self.settings = bench, how, bench.recipe.optimizer
        model = setup.make_model(bench.recipe, SimpleNamespace(base_dir=bench.base), how)
        self.lm = PackedLM(model, how.head).train()
        self.gradients = Gradients(self.lm, dtype_of(bench))
        self.optimizer = setup.make_optimizer(self.settings, setup.parameter_groups(self.lm, self.settings))

    def add_gradients(self, rows: list[Row]) -> Tensor:
        """The loss."""
        targets, total = sum(row.num_targets for row in rows), torch.zeros((), device=self.bench.device)
        for micro_rows in in_groups(rows, self.how.micro_batch_rows):
            batch = collate(micro_rows, self.bench.device)
            with autocast(self.bench.device, self.bench.recipe.compute_dtype):
                loss = self.lm(batch) / targets
            loss.backward()
            total += loss.detach()
        return total

    def train(self, rows: list[Row]) -> tuple[float, float]:
        """The loss and the norm of its gradient."""
        with self.gradients.of_step():
            loss = self.add_gradients(rows)
        norm = self.gradients.clip(self.settings.max_grad_norm)
        self.optimizer.step()
        self.gradients.zero()
        return float(loss), norm

    def time(self, doc_tokens: int, until: float = math.inf) -> dict:
        """Speed and memory, measured and predicted."""
        rows, steps, losses = self.bench.rows(doc_tokens), self.bench.options.steps, []
        seconds = seconds_of(lambda: losses.append(self.train(rows)[0]), steps, self.bench.device, until)
        need = memory(self.bench.recipe, self.bench.size, self.bench.row_tokens, self.how, self.bench.card)
        found = {"predicted_gib": (sum(need.values()) - need["CUDA context"]) / GIB, "losses": losses}
        found |= {"doc_tokens": doc_tokens, "execution": self.how.model_dump(), "failed": not np.isfinite(losses).all()}
        learned = f"{len(seconds)} of {steps} steps, loss {losses[0]:.3f} -> {losses[-1]:.3f}"
        found["note"] = f"{learned}; {words_of(self.how)}"
        return found | speed_and_peak(rows, seconds, self.bench.device)


class PlainStep(Step):
    """The same by transformers and PEFT alone, a document at a time."""

    def __init__(self, bench: Bench):
        self.bench, self.settings, self.lm = bench, bench.recipe.optimizer, plain_model(bench)
        self.gradients = Gradients(self.lm, dtype_of(bench))
        self.optimizer = setup.make_optimizer(self.settings, [{"params": list(trained(self.lm).values())}])

    def add_gradients(self, rows: list[Row]) -> Tensor:
        targets, total = sum(row.num_targets for row in rows), torch.zeros((), device=self.bench.device)
        for ids in (part for row in rows for part in np.split(row.input_ids, np.cumsum(row.doc_lengths)[:-1])):
            document = torch.from_numpy(ids).long()[None].to(self.bench.device)
            with autocast(self.bench.device, self.bench.recipe.compute_dtype):
                mean = self.lm(input_ids=document, labels=document, use_cache=False).loss
            loss = mean * (len(ids) - 1) / targets
            loss.backward()
            total += loss.detach()
        return total


def plain_model(bench: Bench) -> nn.Module:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype, nf4 = dtype_of(bench), {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    options = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype, **nf4)}
    flash = has_package("flash_attn") and dtype.itemsize == 2
    options["attn_implementation"] = "flash_attention_2" if flash else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(bench.base, dtype=dtype, device_map={"": bench.device}, **options)
    return get_peft_model(model, LoraConfig(**lora_settings(bench), task_type="CAUSAL_LM")).train()


def lora_settings(bench: Bench) -> dict:
    adapter = bench.recipe.adapter
    return {"r": adapter.rank, "lora_alpha": adapter.alpha, "target_modules": list(adapter.targets), "lora_dropout": 0}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by a name that all who use PEFT share: layers.0.self_attn.q_proj.lora_A.default.weight"""
    return {name[name.index("layers.") :]: p for name, p in model.named_parameters() if p.requires_grad}


def speed_and_peak(rows: list[Row], seconds: list[float], device: str) -> dict:
    median, tokens = statistics.median(seconds), sum(len(row.input_ids) for row in rows)
    found = {"tokens_per_s": tokens / median, "ms_per_step": 1000 * median, "seconds": seconds}
    found["peak_gib"] = peak_memory_bytes(device) / GIB
    if device == "cuda":
        retries = torch.cuda.memory_stats()["num_alloc_retries"]
        found |= {"reserved_gib": torch.cuda.max_memory_reserved() / GIB, "alloc_retries": retries}
    return found


# -------------------------------------------------------------------------------------------------------- sections


def measurements(bench: Bench, small: Bench, report: Report) -> Iterator[tuple[str, str, Callable[[], dict]]]:
    """Everything that is measured: its section, what it is, and the function that does it."""
    yield "ceilings", "matrix product, copy", partial(find_ceilings, bench)

    kinds: dict[str, dict] = {"chosen": {}}
    kinds["NF4, all recomputed"] = {"recompute_layers": bench.size.layers, "dequantised": False}
    kinds["NF4, norms and SwiGLU recomputed"] = {"recompute_layers": 0, "recompute_cheap": True, "dequantised": False}
    kinds["NF4, nothing recomputed"] = {"recompute_layers": 0, "recompute_cheap": False, "dequantised": False}
    cheap = kinds["NF4, norms and SwiGLU recomputed"]
    kinds["dequantised, norms and SwiGLU recomputed"] = cheap | {"dequantised": True}
    for name, asked in kinds.items():
        loaded: list[Step] = []  # once for all that is measured of it
        for parts in (4, 16, 1) if name == "chosen" else (4,):
            doc_tokens = bench.row_tokens // parts
            yield "step", f"{name}, documents of {doc_tokens:,}", partial(time_step, bench, asked, loaded, doc_tokens)
        if name == "chosen":
            yield "profile", "one step of the chosen", partial(profile_step, bench, loaded)
        loaded.clear()
    yield "step", f"compiled, documents of {bench.row_tokens // 4:,}", partial(time_compiled, bench)

    first: dict[int, tuple[float, Tensor]] = {}
    for num_tokens in (64, 256) if bench.options.tiny else HEAD_TOKENS:
        for name, head in heads((16, 64) if bench.options.tiny else HEAD_CHUNKS).items():
            what = f"{name}, {num_tokens:,} tokens"
            yield "head", what, partial(time_head, bench, report, num_tokens, head, first)

    for dtype, steps in ({"float32": 60} if bench.device == "cpu" else {"float32": 1, "bfloat16": 60}).items():
        # one step in fp32 shows the arithmetic, bf16 is what is trained in
        run = Overfit(replace(small, recipe=small.recipe.model_copy(update={"compute_dtype": dtype})), steps)
        yield "agreement", f"transformers and PEFT, a document at a time, {dtype}", partial(run.compare, run.plain)
        for name, how in run.others.items():
            yield "agreement", f"ours {name}, {dtype}", partial(run.compare, partial(run.ours, **how))
        for peer in ("trl", "unsloth") if steps > 1 else ():
            yield "agreement", f"{peer}, {dtype}", partial(run.compare, partial(run.peer, peer))

    for cap_gib, card_gib in CAPS if bench.device == "cuda" else ():
        what = f"card of {card_gib:g} GiB, torch held to {cap_gib:g}"
        yield "caps", what, lambda gib=(cap_gib, card_gib): report.beside_chosen(time_under_cap(bench, *gib))

    for peer, checkpointing in (("trl", True), ("unsloth", True), ("trl", False), ("unsloth", False)):
        what = f"{peer}, {'checkpointing' if checkpointing else 'nothing recomputed'}"
        how = (peer, checkpointing, bench.options.steps)
        yield "peers", what, lambda how=how: report.beside_chosen(time_peer(bench, *how))


def find_ceilings(bench: Bench) -> dict:
    width, numbers = (8192, 2**31) if bench.device == "cuda" else (256, 2**22)
    options = {"device": bench.device, "dtype": dtype_of(bench)}
    one, other, product = (torch.randn(width, width, **options) for _ in range(3))
    flops = 2 * width**3 / min(seconds_of(lambda: torch.mm(one, other, out=product), 20, bench.device))
    source, target = (torch.zeros(numbers, **options) for _ in range(2))
    speed = 2 * source.nbytes / min(seconds_of(lambda: target.copy_(source), 20, bench.device))
    note = f"{flops / 1e12:.4g} TFLOP/s ({width:,} x {width:,}, {bench.recipe.compute_dtype}), {speed / 1e12:.3g} TB/s"
    return {"matmul_flops": flops, "copy_bytes_per_s": speed, "note": f"{note} read and written"}


def time_step(bench: Bench, asked: dict, loaded: list[Step], doc_tokens: int, until: float = math.inf) -> dict:
    """By the fastest execution that fits of those that are as `asked`."""
    try:
        how = bench.choose(**asked)
    except ValueError:
        return {"note": "does not fit"}
    if asked and how == bench.choose():
        return {"note": "is the chosen"}
    loaded += [] if loaded else [Step(bench, how)]
    return loaded[0].time(doc_tokens, until)


def time_compiled(bench: Bench) -> dict:
    """The step with compiled layers, beside the same that is not compiled."""
    try:
        how = bench.choose(compile=True)
    except ValueError:
        return {"note": "does not fit"}
    doc_tokens = bench.row_tokens // 4
    plain = Step(bench, how.model_copy(update={"compile": False})).time(doc_tokens)
    release()
    step, started = Step(bench, how), time.perf_counter()
    step.train(bench.rows(doc_tokens))
    found = {"not_compiled": plain, "first_step_s": time.perf_counter() - started} | step.time(doc_tokens)
    found["of_not_compiled"] = found["tokens_per_s"] / plain["tokens_per_s"]
    words = f"{found['of_not_compiled']:.2f} x the same not compiled ({plain['tokens_per_s']:,.0f} tokens/s)"
    return found | {"note": f"{words}, first step {found['first_step_s']:.0f} s; {found['note']}"}


def heads(chunks: tuple[int, ...]) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """What is compared: name -> function from hidden states, head and targets to the loss."""
    found = {"Liger's": partial(linear_cross_entropy, head="liger")}
    if has_package("liger_kernel"):
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as liger

        if "chunk_mem_const" in inspect.signature(liger).parameters:
            settings = {"ignore_index": IGNORE, "reduction": "sum", "chunk_mem_const": 8}
            found["Liger's, chunks of 8 times the size"] = partial(liger, **settings)
    for size in chunks:
        found[f"ours, chunks of {size:,}"] = partial(linear_cross_entropy, head="chunked", chunk_tokens=size)
    return found


def time_head(bench: Bench, report: Report, num_tokens: int, head: Callable, first: dict) -> dict:
    """Forward and backward with a frozen head. The loss and its gradient are compared with those of the first one."""
    if bench.device == "cpu" and head.keywords.get("head") == "liger":
        return {"note": "left out: Liger's kernels need a card"}
    torch.manual_seed(0)
    options = {"device": bench.device, "dtype": dtype_of(bench)}
    hidden = torch.randn(num_tokens, bench.size.hidden, **options).requires_grad_()
    weight = torch.randn(bench.size.vocab, bench.size.hidden, **options).mul_(bench.size.hidden**-0.5)
    targets = torch.randint(bench.size.vocab, (num_tokens,), device=bench.device)
    targets[:: num_tokens // 8] = IGNORE
    held = torch.cuda.memory_allocated() if bench.device == "cuda" else 0

    def run() -> Tensor:
        hidden.grad = None
        loss = head(hidden, weight, targets)
        loss.backward()
        return loss.detach()

    ms = 1000 * statistics.median(seconds_of(run, bench.options.steps, bench.device))
    peak = (peak_memory_bytes(bench.device) - held) / GIB
    loss, gradient = run().item(), hidden.grad.flatten().float().cpu()
    loss_first, gradient_first = first.setdefault(num_tokens, (loss, gradient))
    cosine = float(nn.functional.cosine_similarity(gradient, gradient_first, dim=0))
    found = {"ms": ms, "peak_gib": peak, "loss": loss, "cosine": cosine}
    found["failed"] = not (cosine > SMALLEST_COSINE and abs(loss / loss_first - 1) < 1e-3)
    note = f"{ms:.2f} ms, {'DIFFERS' if found['failed'] else 'agrees'} with the first"
    steps_ms = [
        e["ms_per_step"] for e in report.found["entries"] if e["what"].startswith("chosen, ") and "ms_per_step" in e
    ]
    if steps_ms:
        found["of_step"] = ms / num_tokens * STEP_ROWS * bench.row_tokens / steps_ms[0]
        note += f", {found['of_step']:.1%} of the chosen step"
    return found | {"note": note}


def words_of(how: Execution) -> str:
    cheap = ", of the others norms and SwiGLU" if how.recompute_cheap else ""
    held = ", dequantised" if how.dequantised else ""
    made = f"{', compiled' if how.compile else ''}, {how.head} head"
    return f"micro-batches of {how.micro_batch_rows}, {how.recompute_layers} layers recomputed{cheap}{held}{made}"


def profile_step(bench: Bench, loaded: list[Step]) -> dict:
    """The kernels (on a CPU the operations) of a step by time, and how often the host waits."""
    step, rows = loaded[0] if loaded else Step(bench, bench.choose()), bench.rows(bench.row_tokens // 4)
    step.train(rows)
    with profile() as profiler:
        step.train(rows)
    events = profiler.key_averages()
    if bench.device == "cuda":
        times = [(e.self_device_time_total / 1000, e.count, e.key) for e in events if e.device_type == DeviceType.CUDA]
    else:
        times = [(e.self_cpu_time_total / 1000, e.count, e.key) for e in events]
    total, kernels = sum(ms for ms, _, _ in times), sorted(times, reverse=True)[:25]
    for ms, calls, name in kernels[:10]:
        print(f"{ms:10,.2f} ms {ms / total:6.1%} {calls:7,} calls  {name[:120]}")
    names = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::item", "aten::nonzero")
    waits = {name: sum(event.count for event in events if event.key == name) for name in names}
    num = STEP_ROWS // step.how.micro_batch_rows
    note = ", ".join(f"{count / num:g} {name}" for name, count in waits.items())
    note += f" a micro-batch (of {num}; two aten::item are of the step); kernels took {total:,.0f} ms"
    return {"note": note, "kernels": kernels, "kernels_ms": total, "waits": waits, "micro_batches": num}


def time_under_cap(bench: Bench, cap_gib: float, card_gib: float, until: float | None = None) -> dict:
    """Beside the same uncapped, unless there is an end."""
    how = bench.choose(bench.card._replace(memory_bytes=int(card_gib * GIB))).model_dump()
    found = run_fresh(bench, {"function": "step_under_cap", "how": how, "cap_gib": cap_gib, "until": until}, until)
    if "uncapped" in found:
        found["of_uncapped"] = found["tokens_per_s"] / found["uncapped"]["tokens_per_s"]
        words = f"{found['of_uncapped']:.2f} x the same uncapped, {found['alloc_retries']} allocations retried"
        found["note"] = f"{words}; {found['note']}"
    return found


def step_under_cap(bench: Bench, job: dict) -> dict:
    if bench.device == "cuda":  # nothing holds a CPU to a cap
        torch.cuda.set_per_process_memory_fraction(job["cap_gib"] * GIB / bench.card.total_bytes)
    step = Step(bench, Execution(**job["how"]))
    if job["until"]:
        return step.time(bench.row_tokens // 4, job["until"] - 20)
    found = step.time(bench.row_tokens // 4)
    torch.cuda.set_per_process_memory_fraction(1.0)
    return found | {"uncapped": step.time(bench.row_tokens // 4)}


# ------------------------------------------------------------------------------------------------------- agreement


class Overfit:
    """The same rows `steps` times from the same adapter: the gradients of the first step, the losses of all."""

    def __init__(self, bench: Bench, steps: int):
        self.bench, self.steps = bench, steps
        self.folder = bench.options.scratch / bench.recipe.compute_dtype
        self.found: dict = {}
        nothing = {"recompute_layers": 0, "recompute_cheap": False, "dequantised": True}
        self.others = {"dequantised, nothing recomputed": nothing, "compiled": {**nothing, "compile": True}}
        if bench.device == "cuda":
            self.others["with the chunked head"] = {"head": "chunked"}

    def ours(self, **asked: object) -> dict:
        """By default with all kinds of layers in one model."""
        how = {"recompute_layers": 1, "recompute_cheap": True, "dequantised": False} | asked
        return self.train(Step(self.bench, Execution(**how, micro_batch_rows=4, device=self.bench.device)))

    def plain(self) -> dict:
        return self.train(PlainStep(self.bench))

    def peer(self, peer: str) -> dict:
        job = {"peer": peer, "checkpointing": False, "optim": "adamw_torch", "folder": str(self.folder)}
        job |= {"function": "train_peer", "steps": self.steps}
        found = run_fresh(self.bench, job)
        return found | {"gradients": load_file(self.folder / f"{peer}.safetensors")} if "losses" in found else found

    def train(self, step: Step) -> dict:
        start_equal(step.lm, self.folder)
        rows = self.bench.real_rows()
        step.add_gradients(rows)
        gradients = {name: p.grad.float().cpu().clone() for name, p in trained(step.lm).items()}
        step.gradients.zero()
        return {"gradients": gradients, "losses": [step.train(rows)[0] for _ in range(self.steps)]}

    def compare(self, find: Callable[[], dict]) -> dict:
        """Ours with the other that `find` trains."""
        ours = self.found = self.found or self.ours()
        other = find()
        if "losses" not in other:
            return other
        assert ours["gradients"].keys() == other["gradients"].keys()
        pairs = {name: (grad.flatten(), other["gradients"][name].flatten()) for name, grad in ours["gradients"].items()}
        cosines = {name: float(nn.functional.cosine_similarity(*pair, dim=0)) for name, pair in pairs.items()}
        worst = min(cosines, key=cosines.get)
        end, end_other = (statistics.mean(run["losses"][-3:]) for run in (ours, other))
        apart = abs(end / end_other - 1)
        found = {"cosines": cosines, "ends_apart": apart, "losses": ours["losses"], "losses_other": other["losses"]}
        found["failed"] = not (cosines[worst] > SMALLEST_COSINE and apart < FURTHEST_END)
        note = f"{'DIFFERS' if found['failed'] else 'agrees'}: smallest cosine {cosines[worst]:.6f} ({worst}); loss"
        note += f" {ours['losses'][0]:.4f} -> {end:.4f}, theirs {other['losses'][0]:.4f} -> {end_other:.4f}"
        return found | {"note": f"{note} ({apart:.2%} apart)"}


def start_equal(model: nn.Module, folder: Path) -> None:
    """Gives all the same adapter, with a B that is not zero: before that A has no gradient."""
    folder.mkdir(exist_ok=True)
    path, parameters = folder / "start.safetensors", trained(model)
    if not path.is_file():
        generator = torch.Generator().manual_seed(0)
        save_file({name: 0.02 * torch.randn(p.shape, generator=generator) for name, p in parameters.items()}, path)
    start = load_file(path)
    assert start.keys() == parameters.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(start[name])


# ----------------------------------------------------------------------------------------------------------- peers


def time_peer(bench: Bench, peer: str, checkpointing: bool, steps: int, until: float | None = None) -> dict:
    job = {"peer": peer, "checkpointing": checkpointing, "optim": "adamw_8bit", "steps": steps + 1}
    return run_fresh(bench, {"function": "train_peer", "doc_tokens": bench.row_tokens // 4, **job}, until)


def train_peer(bench: Bench, job: dict) -> dict:
    """`job["steps"]` steps by TRL's SFTTrainer, on a model by transformers and PEFT or by Unsloth."""
    peer, folder, on_card = job["peer"], job.get("folder"), bench.device == "cuda"
    if not has_package(peer) or not has_package("trl"):
        return {"note": "absent"}
    model = unsloth_model(bench, job["checkpointing"]) if peer == "unsloth" else plain_model(bench)
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    ends: list[float] = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args: object, state: object, control: object, **kwargs: object) -> None:
            if folder and not ends:
                gradients = {name: p.grad.float().cpu().clone() for name, p in trained(kwargs["model"]).items()}
                save_file(gradients, Path(folder, f"{peer}.safetensors"))

        def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
            if on_card:
                torch.cuda.synchronize()
                if not ends:
                    torch.cuda.reset_peak_memory_stats()
            ends.append(time.perf_counter())

    if folder:
        start_equal(model, Path(folder))
    varlen = has_package("flash_attn") or (peer == "unsloth" and has_package("xformers"))
    micro_batch_rows = STEP_ROWS if folder else 4 if varlen else 1  # a mask grows with the square of the rows
    liger = peer == "trl" and on_card and has_package("liger_kernel")
    rows, settings = bench.real_rows() if folder else bench.rows(job["doc_tokens"]), bench.recipe.optimizer
    data = Dataset.from_list([{"input_ids": row.input_ids.tolist(), "seq_lengths": row.doc_lengths} for row in rows])
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out, per_device_train_batch_size=micro_batch_rows, max_steps=job["steps"],
            gradient_accumulation_steps=STEP_ROWS // micro_batch_rows, optim=job["optim"],
            learning_rate=settings.learning_rate, max_grad_norm=settings.max_grad_norm, weight_decay=0.0,
            lr_scheduler_type="constant", gradient_checkpointing=job["checkpointing"], use_liger_kernel=liger,
            bf16=on_card, use_cpu=not on_card, padding_free=True, dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None, logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(bench.base)
        trainer = SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer, callbacks=[Watch()])
        trainer.train()
    note = f"micro-batches of {micro_batch_rows}, {getattr(model.config, '_attn_implementation', '?')}"
    note += ", Liger" if liger else ""
    found = speed_and_peak(rows, [stop - start for start, stop in pairwise(ends)], bench.device)
    return found | {"note": note, "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line]}


def unsloth_model(bench: Bench, checkpointing: bool) -> nn.Module:
    """Unsloth must be imported before transformers, PEFT and TRL, which it changes."""
    from unsloth import FastLanguageModel

    keep = {"use_gradient_checkpointing": "unsloth" if checkpointing else False}
    options = {"max_seq_length": bench.row_tokens, "load_in_4bit": True, "dtype": dtype_of(bench)}
    model, _ = FastLanguageModel.from_pretrained(str(bench.base), **options, **keep)
    return FastLanguageModel.get_peft_model(model, **lora_settings(bench), random_state=0, **keep)


def run_fresh(bench: Bench, job: dict, until: float | None = None) -> dict:
    """What the function that `job` names gives in a process of its own, or {"note": the first line of its error}.

    It is killed at `until`, by default at the end of the bench.
    """
    options, site = bench.options, Path(os.environ.get("BENCH_SITES", "/nowhere"), job.get("peer", "none"))
    words = ["--device", bench.device, "--base", str(options.base), "--steps", str(options.steps)]
    words += [*["--tiny"] * options.tiny, *(["--rows", str(options.rows)] if options.rows else [])]
    words += ["--job", json.dumps(job)]
    paths = f"{site}{os.pathsep}" * site.is_dir() + os.environ.get("PYTHONPATH", "")
    limit = max(1.0, until - time.monotonic()) if until else max(30.0, bench.deadline - time.monotonic())
    how = {"env": os.environ | {"PYTHONPATH": paths}, "capture_output": True, "text": True, "timeout": limit}
    try:
        done = subprocess.run([sys.executable, __file__, *words], **how)
    except subprocess.TimeoutExpired:
        return {"note": f"not done in {limit:.0f} s", "failed": True}
    if done.returncode == 0:
        return json.loads([line for line in done.stdout.splitlines() if line.startswith('{"')][-1])
    print(done.stderr[-3000:], file=sys.stderr, flush=True)
    after = done.stderr.rpartition("Traceback (most recent call last):")[2].splitlines()
    note = next((line for line in after if line[:1].strip()), f"exit {done.returncode}")
    return {"note": note[:200], "failed": True}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--short", action="store_true", help="all of it once, in nine minutes; JSON in gpu.json")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--wheels", type=Path, help="a folder of wheels, installed for this run only")
    parser.add_argument("--base", type=Path, help="where the models are made and kept (default: a temporary folder)")
    parser.add_argument("--rows", type=Path, help="packed rows for agreement (default: from the bundled sample papers)")
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a pico model")
    parser.add_argument("--steps", type=int, default=3, help="timed, after the first")
    parser.add_argument("--minutes", type=float, default=8.5, help="nothing is begun after so long")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from bench import gpu_short

    if options.job:
        jobs = {"step_under_cap": step_under_cap, "train_peer": train_peer} | gpu_short.JOBS
        function = jobs[options.job["function"]]
        print(json.dumps(function(make_bench(options, small="folder" in options.job), options.job)))
        return 0
    if options.short:
        gpu_short.settle(options)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", f"{folder}/unsloth")  # else in the current folder
        options.scratch = Path(folder)
        options.base = options.base or options.scratch
        bench, small = make_bench(options), make_bench(options, small=True)
        report = Report(bench)
        print(json.dumps(report.found["about"]))
        if options.short:
            gpu_short.run(bench, report)
        for section, what, find in () if options.short else measurements(bench, small, report):
            if section == "ceilings" or section in options.only:
                if section != "ceilings":
                    make_base(small if section == "agreement" else bench)
                report.add(section, what, find)
    entries = report.found["entries"]
    print(f"\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", *map(table_row, entries), sep="\n")
    return int(any(entry.get("failed") for entry in entries))


if __name__ == "__main__":
    from bench import gpu  # under the name by which gpu_short.py knows it

    sys.exit(gpu.main())
