"""Checks on untrusted corpora, model folders and adapters: links, file names, settings, control characters."""

import hashlib
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.errors import UserError

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_HEAVY_PATTERN = re.compile(r"\)[*+{]|(?:[*+{].*){7}", re.DOTALL)  # such a pattern can take exponential time
MAX_PATTERN_CHARS = 2_000
MAX_NAME_BYTES = 255  # that a file system takes
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
LOCAL = ("runs/", "models/")  # begin names of folders that are made here, never hub ids
CHAT_SECONDS = 10.0
CHAT_DATE = datetime(2024, 7, 26)  # that of Llama 3's templates where a program tells them none
MAX_CHAT_CHARS = 1 << 24
TEMPLATE_FAILURES = (ArithmeticError, LookupError, TypeError, AttributeError, RecursionError, MemoryError)


def printable(text: str) -> str:
    r"""`text` with terminal control characters escaped (\x1b); line ends and tabs stay."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}" if found[0] < "\u0100" else "\ufffd", text)


def as_file_name(name: str) -> str:
    """The name as a file name; one that is changed by this ends in ~ and a hash, so that no two names share a file."""
    plain = re.sub(r"^\.|[^\w.+-]+", "_", name)
    return plain if plain == name else f"{plain}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def leads_outside(path: Path, top: Path) -> bool:
    """Whether `path`, found below `top`, is or passes a link to what is not below `top`.

    `top` may be a link itself, since the user named it. A snapshot in the hub's cache is links to `blobs` beside it.
    """
    target = path.resolve()
    roots = [top.resolve()]
    for folder in (top.absolute(), roots[0]):
        roots += [up.parent / "blobs" for up in (folder, *folder.parents) if up.name == "snapshots"]
    return not any(target.is_relative_to(root.resolve()) for root in roots)


def require_inside(path: Path, top: Path) -> None:
    """Raises UserError where a file of a model folder is a link that leads out of it, perhaps to a private file."""
    if leads_outside(path, top):
        found = f"{path} is a link that leads out of its folder, to {path.resolve()}."
        todo = "put a copy of that file there if it belongs to the model, or remove the link."
        raise UserError("model-link-outside", found, "Only files inside the model's folder are copied:", todo)


def require_plain_model(folder: Path) -> dict[str, Any]:
    """Refuses a model folder that would have transformers read more than its weights; returns its config. Raises
    UserError where it has no safetensors, or its config or an adapter beside it asks for other files or for code."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        found = f"{folder}/config.json is not a model config."
        raise UserError("model-config-wrong", found, "Fetch it again, or name another MODEL.")
    weight_files(folder)
    if (folder / "adapter_config.json").is_file():
        found = f"{folder} holds a model and an adapter_config.json: transformers would load the base that this names."
        raise UserError("model-with-adapter", found, "Move the adapter's files to a folder of their own.")
    require_own_attention(folder / "config.json", [config])
    return config


def require_own_attention(path: Path, settings: Iterable[dict[str, Any]]) -> None:
    """Raises UserError where settings of `path`, or those directly in them, name a kernel on the hub: code."""
    for one in settings:
        for part in (one, *(value for value in one.values() if isinstance(value, dict))):
            kernels = [
                part.get(key) for key in ("attn_implementation", "_attn_implementation", "experts_implementation")
            ]
            if remote := [value for value in kernels if "/" in str(value)]:
                found = f"{path} requests attention from {remote[0]!r}, which is code."
                todo = "remove that setting, and the model is read without it."
                raise UserError("model-names-code", found, "A model may not name code to run:", todo)


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files of a model: model.safetensors, or the shards that its index names. Raises
    UserError where there are none, or the index names files that lie elsewhere, or are no safetensors, or not there."""
    files = ["model.safetensors"] if (folder / "model.safetensors").is_file() else _indexed(folder)
    for name in files:
        with open(folder / name, "rb") as file:
            header_bytes, begin = int.from_bytes(file.read(8), "little"), file.read(1)
        if begin != b"{" or header_bytes > (folder / name).stat().st_size - 8:
            raise not_safetensors(folder / name)
    return files


def _indexed(folder: Path) -> list[str]:
    where = folder / "model.safetensors.index.json"
    if not where.is_file():
        raise no_safetensors(folder)
    index = read_json(where)
    named = index.get("weight_map") if isinstance(index, dict) else None
    files = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
    if not files:
        found = f"{where} names no files of weights (weight_map)."
        raise UserError("weights-index-empty", found, "A whole one is needed:", "fetch it again.")
    if outside := [name for name in files if Path(name).name != name or len(name.encode()) > MAX_NAME_BYTES]:
        found = f"{where} names files outside its folder ({outside[0]!r})."
        raise UserError("weights-index-outside", found, "That is refused:", "fetch it again.")
    if others := [name for name in files if not name.endswith(".safetensors")]:
        found = f"{where} names {others[0]!r}, which is no *.safetensors."
        needed = "Weights are only ever read from safetensors (pickled files can run code):"
        raise UserError("weights-index-names-others", found, needed, "convert them, or name another MODEL.")
    if missing := [name for name in files if not (folder / name).is_file()]:
        found = f"{folder} lacks {', '.join(missing)}, which its index names."
        raise UserError("weights-shard-absent", found, "Fetch the missing shards.")
    return files


def require_lora(settings: object, where: Path) -> None:
    """Raises UserError where an adapter config makes PEFT do more than LoRA: fetch other adapters, import modules (it
    names Megatron's), or hang (on a pattern that may not end)."""
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else type(settings).__name__
        found = f"{where} is an adapter of type {kind!r}."
        raise UserError("adapter-not-lora", found, "Only LoRA (peft_type LORA) is read here:", "name such an adapter.")
    if settings.get("megatron_config"):
        found = f"{where} sets megatron_config, which has PEFT import the module {settings.get('megatron_core')!r}."
        needed = "An adapter may not name code to run:"
        raise UserError("adapter-names-code", found, needed, "remove that setting, and the adapter is read without it.")
    for key in ("rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_pattern"):
        patterns = settings.get(key) or []
        if not isinstance(patterns, str | list | dict):
            found = f"{where}: {key} is {patterns!r}, where names or patterns of modules are needed."
            raise UserError("adapter-pattern-wrong", found, "Fetch or save the adapter again.")
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if _HEAVY_PATTERN.search(str(pattern)) or len(str(pattern)) > MAX_PATTERN_CHARS:
                found = f"{where}: the pattern {str(pattern)[:80]!r} of {key} may take exponential time to match."
                needed = f"Repeated groups and more than six repetitions in one pattern of {key} are refused:"
                raise UserError("adapter-pattern-endless", found, needed, "name the modules instead.")


def render_chat(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> str:
    """The messages in a tokenizer's chat template: a program that came with the model, run by jinja2 in a sandbox, in
    which it is always CHAT_DATE: the same data give the same prompts tomorrow.
    Raises ValueError where the template refuses, fails, takes too long or writes too much."""
    from jinja2 import TemplateError

    try:
        with _seconds(CHAT_SECONDS):
            text = tokenizer.apply_chat_template(messages, tokenize=False, strftime_now=CHAT_DATE.strftime, **options)
    except (TemplateError, *TEMPLATE_FAILURES) as error:
        words = str(error) if type(error) is TemplateError else f"{type(error).__name__}: {error}"
        raise ValueError(f"the chat template refuses these messages ({words})") from None  # caught by every caller
    except TimeoutError:
        raise ValueError(f"the chat template takes over {CHAT_SECONDS:g} s") from None  # caught by every caller
    if len(text) > MAX_CHAT_CHARS:
        raise ValueError(f"the chat template writes {len(text):,} characters")  # caught by every caller
    return text


@contextmanager
def _seconds(limit: float) -> Iterator[None]:
    """Raises TimeoutError when time is up; only the main thread can be stopped so."""

    def stop(*_: object) -> None:
        raise TimeoutError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, started = signal.signal(signal.SIGALRM, stop), time.monotonic()
    left, _ = signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left and max(0.001, left - (time.monotonic() - started)))  # --max-hours


def no_safetensors(folder: Path) -> UserError:
    found = f"No *.safetensors in {folder}: neither model.safetensors nor its index."
    needed = "Weights are only ever read from safetensors (pickled *.bin files can run code):"
    return UserError("weights-absent", found, needed, "convert them, or name another MODEL.")


def not_safetensors(path: Path) -> UserError:
    found = f"{path} is not a safetensors file: its header cannot be read, or leads outside it."
    return UserError("weights-not-safetensors", found, "Whole files are needed:", "fetch or copy it again.")
