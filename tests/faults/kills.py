"""Runs of any verb that are killed with kill -9 and run again, from one process that has imported everything.

`killed(cases)` starts that process (this file as a program), which forks a child for each attempt, so that a kill costs
the part of a run that it cuts off and not the imports. A kill is one of

    {"event": 0.4, "half": true}           at 40 % of the writes, renames, syncs and deletions of an undisturbed run
    {"named": "rename checkpoints/.*"}     at the first such event: of what kind and on which file, as a pattern
    {"moment": 0.4}                        by the parent, after 40 % of the time of an undisturbed run

before the event or, with `half`, in the midst of it: half of the bytes written, or of the file about to get its name.
"""

import builtins
import contextlib
import gc
import hashlib
import importlib
import io
import json
import mmap
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from nsllm_lite import cli
from nsllm_lite.recipe import load as recipes

HEAVY = ("bitsandbytes", "peft", "transformers.models.qwen3.modeling_qwen3")  # imported only when they are used
TELL_TIME = ("times.json", "trainer_log.jsonl")  # the files that tell of time
LOGS = re.compile(r"metrics\.jsonl|predictions/.*\.jsonl")  # grow line by line
LIMIT_SECONDS = 120  # for one attempt
EVENTS, BEGUN, ENDED = range(3)  # of the numbers that a child leaves: events, the first byte, the last rename


def killed(cases: list[dict], folder: Path) -> list[dict]:
    """What became of each case. A case is {"name", "recipe": its values, "kills": [[a kill, kills of the re-run, ...]],
    "whole": values of the undisturbed run if others, "set": {"module.CONSTANT": value}}."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.json").write_text(json.dumps(cases))
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **one_thread, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.faults.kills", str(folder / "cases.json"), str(folder / "results.json")]
    where = {"cwd": Path(__file__).parents[2], "env": environment}
    with open(folder / "log.txt", "w") as log:
        status = subprocess.run(command, **where, stdout=log, stderr=log, check=False).returncode
    assert status == 0, (folder / "log.txt").read_text()[-5000:]
    return json.loads((folder / "results.json").read_text())


def random_kills(seed: int, num_events: int, num_moments: int) -> list[list[dict]]:
    """So many tries of each kind in mixed order; in two of five the re-run is killed as well, perhaps twice."""
    rng = random.Random(seed)

    def one(kind: str) -> dict:
        return {kind: rng.random(), "half": rng.random() < 0.5}

    firsts = [one("event") for _ in range(num_events)] + [one("moment") for _ in range(num_moments)]
    rng.shuffle(firsts)
    kinds = ("event", "moment")
    return [[first, *(one(rng.choice(kinds)) for _ in range(rng.choice((0, 0, 0, 1, 2))))] for first in firsts]


def tell(fault: str, tries: int, words: str = "") -> None:
    """The figures of docs/measured.md: each slow test appends its own to the file that NSLLM_FAULTS_OUT names."""
    if path := os.environ.get("NSLLM_FAULTS_OUT"):
        with open(path, "a") as file:
            file.write(json.dumps({"fault": fault, "tries": tries, "words": words}) + "\n")


# ---------------------------------------------------------------------------------------------- what a child does


class Disk:
    """Sees what this process does to the files of `out`, and dies as it is told."""

    def __init__(self, out: Path, shared: memoryview, at: int, kill: dict):
        self.roots = (str(out), f"{out}.partial")
        self.out, self.shared, self.at = out, shared, at
        self.named, self.half, self.remembers = kill.get("named"), kill.get("half", False), not kill
        self.named_whole: dict[str, list[dict[str, str]]] = {}  # by name, what renames gave it: files and their hashes
        self.lock = threading.RLock()

    def is_inside(self, path: str) -> bool:
        return any(path == root or path.startswith(root + "/") for root in self.roots)

    def event(self, kind: str, path: str, halfway: Callable[[], object] | None = None) -> None:
        with self.lock:
            self.shared[EVENTS] += 1
            wanted = self.named and re.fullmatch(self.named, f"{kind} {os.path.relpath(path, self.out)}")
            if wanted or self.shared[EVENTS] == self.at:
                if self.half and halfway:
                    halfway()
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        import safetensors.torch as safetensors

        builtins.open = io.open = self._open(io.open)
        for name in ("fsync", "mkdir", "unlink", "remove", "rmdir"):
            setattr(os, name, self._plain(name, getattr(os, name)))
        os.rename, os.replace = self._rename(os.rename), self._rename(os.replace)
        safetensors.serialize_file = self._serialize(safetensors.serialize_file)  # written by Rust

    def _open(self, call: Callable) -> Callable:
        disk = self

        class File(io.FileIO):
            def write(self, data) -> int:
                view = memoryview(data).cast("B")
                disk.event("write", os.path.abspath(self.name), lambda: io.FileIO.write(self, view[: len(view) // 2]))
                count = super().write(data)
                disk.shared[BEGUN] = 1
                return count

        def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            known = isinstance(file, str | os.PathLike) and disk.is_inside(os.path.abspath(file))
            if not known or not set(mode) & set("wax+"):
                return call(file, mode, buffering, encoding, errors, newline, closefd, opener)
            plain = mode.replace("b", "").replace("t", "")
            disk.event("open", os.path.abspath(file), lambda: io.FileIO(file, plain))
            raw = File(os.fspath(file), plain, closefd, opener)
            if buffering == 0:
                return raw
            whole = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return whole if "b" in mode else io.TextIOWrapper(whole, encoding, errors, newline)

        return opened

    def _plain(self, name: str, call: Callable) -> Callable:
        def counted(path, *arguments, **options):
            if isinstance(path, int):
                where = os.path.realpath(f"/proc/self/fd/{path}")
            else:
                folder = f"/proc/self/fd/{options['dir_fd']}" if options.get("dir_fd") is not None else "."
                where = os.path.abspath(os.path.join(os.path.realpath(folder), path))
            if self.is_inside(where):
                self.event(name, where)
            return call(path, *arguments, **options)

        return counted

    def _rename(self, call: Callable) -> Callable:
        def counted(source, target, **options):
            source, target = os.path.abspath(source), os.path.abspath(target)
            if not self.is_inside(target):
                return call(source, target, **options)
            whole = hashes(Path(source)) if self.remembers else {}
            self.event("rename", target, lambda: halve(source))
            call(source, target, **options)
            self.named_whole.setdefault(os.path.relpath(target, self.out), []).append(whole)
            if target in (str(self.out), str(self.out / "manifest.json")):
                self.shared[ENDED] = 1
            return None

        return counted

    def _serialize(self, call: Callable) -> Callable:
        def counted(tensors, filename, *arguments, **options):
            def halfway() -> None:
                call(tensors, filename, *arguments, **options)
                halve(filename)

            self.event("write", os.path.abspath(filename), halfway)
            call(tensors, filename, *arguments, **options)

        return counted


def halve(path: str) -> None:
    if os.path.isfile(path):
        os.truncate(path, os.path.getsize(path) // 2)


def hashes(path: Path) -> dict[str, str]:
    """{file: hash} of a folder, or of a file by the name "."."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


# ------------------------------------------------------------------------------------------------ what the parent does


class Runs:
    """The attempts of one case."""

    def __init__(self, case: dict):
        self.case = case
        self.call = cli.resolve_name(cli.VERBS[case["recipe"]["kind"]])
        for module in () if case["recipe"]["kind"] == "corpus" else HEAVY:
            importlib.import_module(module)
        self.recipe = recipes.validate(case["recipe"], "recipe")
        self.whole_recipe = recipes.validate(case.get("whole", case["recipe"]), "recipe")
        self.out = Path(self.recipe.out).absolute()
        self.partial = Path(f"{self.out}.partial")
        for path, value in case.get("set", {}).items():
            module, _, constant = path.rpartition(".")
            setattr(importlib.import_module(module), constant, value)
        self.groups: list[int] = []

    def attempt(self, kill: dict | None = None, recipe: object | None = None) -> dict:
        """Forks, waits, and tells of it: exit status, events, whether the kill came, and what an unkilled child saw."""
        kill = kill or {}
        shared = memoryview(mmap.mmap(-1, 24)).cast("q")  # outlives the child
        at = 1 + int(kill["event"] * self.num_events) if "event" in kill else 0
        with tempfile.TemporaryFile() as told:
            started = time.monotonic()
            child = os.fork()
            if not child:
                self._run(shared, at, kill, recipe or self.recipe, told)
            self.groups.append(child)
            deadline = started + (kill["moment"] * self.seconds if "moment" in kill else LIMIT_SECONDS)
            while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
                time.sleep(0.001)
            if not ended[0]:
                os.kill(child, signal.SIGKILL)
                ended = os.waitpid(child, 0)
                assert "moment" in kill, f"{self.case['name']}: an attempt hangs"
            seconds, status = time.monotonic() - started, ended[1]
            told.seek(0)
            saw = pickle.load(told) if status == 0 else None
        return {"was_killed": status == signal.SIGKILL, "status": status, "num_events": shared[EVENTS],
                "is_between": bool(shared[BEGUN] and not shared[ENDED]), "seconds": seconds, "saw": saw}  # fmt: skip

    def _run(self, shared: memoryview, at: int, kill: dict, recipe: object, told: io.BufferedRandom) -> None:
        status = 1
        try:
            os.setpgid(0, 0)
            disk = Disk(self.out, shared, at, kill)
            disk.watch()
            self.call(recipe)
            pickle.dump((disk.named_whole, list(sys.modules)), told)
            told.flush()
            status = 0
        finally:
            if status:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def clear(self) -> None:
        for path in (self.out, self.partial):
            shutil.rmtree(path, ignore_errors=True)

    def do(self) -> dict:
        began = time.monotonic()
        self._run_undisturbed()
        tries = [self.one_try(kills) for kills in self.case["kills"]]
        deadline = time.monotonic() + 20
        while (lingering := num_running(self.groups)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return {"name": self.case["name"], "tries": tries, "lingering": lingering,
                "log_lines": num_lines(self.logs), "seconds": round(time.monotonic() - began, 1)}  # fmt: skip

    def _run_undisturbed(self) -> None:
        """What it leaves; then how many events and seconds the run that is to be killed takes, with all imported."""
        self.clear()
        found = self.attempt(recipe=self.whole_recipe)
        assert found["status"] == 0, f"{self.case['name']}: the undisturbed run failed"
        self.named_whole, modules = found["saw"]
        self.whole, self.logs = contents(self.out), logs(self.out)
        for name in modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        gc.freeze()  # or every collection of a child copies the memory of its parent
        if not all("named" in kill for kills in self.case["kills"] for kill in kills):
            self.clear()
            found = self.attempt()
            assert contents(self.out) == self.whole, f"{self.case['name']}: two undisturbed runs differ"
        self.num_events, self.seconds = found["num_events"], found["seconds"]

    def one_try(self, kills: list[dict]) -> dict:
        """Kills, and after the last of them the same command to its end."""
        self.clear()
        made, wrong = [], []
        for kill in (*kills, {}):
            found = self.attempt(kill)
            while not made and not found["was_killed"] and kill.get("moment"):  # too late for this machine
                self.clear()
                kill = {**kill, "moment": kill["moment"] / 2}
                found = self.attempt(kill)
            if not found["was_killed"]:
                break  # to its end, before the kill came
            seen = {"is_between": found["is_between"], "left": left(self.out), "log_lines": num_lines(logs(self.out))}
            made.append({**kill, **seen})
            wrong += [f"{kill}: {line}" for line in self.not_whole()]
        if found["status"]:
            wrong.append(f"it did not come to its end ({found['status']})")
        else:
            wrong += differences(self.whole, contents(self.out))
        wrong += [f"{self.partial.name} is left"] if self.partial.exists() else []
        return {"kills": made, "wrong": wrong, "share_again": found["num_events"] / self.num_events}

    def not_whole(self) -> list[str]:
        """What lies in `out` under its final name and is not what an undisturbed run has there."""
        if (self.out / "manifest.json").exists():
            there = {name: value for name, value in contents(self.out).items() if name.split("/")[0] != "work"}
            return [f"there is a manifest, but {line}" for line in differences(self.whole, there)]
        found = []
        for name, files in self.named_whole.items():
            is_aside = name.startswith(("work/", "..")) or ".part" in name or name.endswith(".old")
            if is_aside or LOGS.fullmatch(name) or Path(name).name in TELL_TIME or not (self.out / name).exists():
                continue
            if hashes(self.out / name) not in files:
                found.append(f"{name} is there and not whole")
        for name, text in logs(self.out).items():
            if not self.logs[name].startswith(text):
                found.append(f"{name} does not begin as that of an undisturbed run")
        return found


def num_running(groups: list[int]) -> int:
    """Processes of these groups."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            count += state != "Z" and int(group) in groups
    return count


def logs(out: Path) -> dict[str, bytes]:
    names = [path.relative_to(out).as_posix() for path in out.rglob("*.jsonl")]
    return {name: (out / name).read_bytes() for name in names if LOGS.fullmatch(name)}


def num_lines(texts: dict[str, bytes]) -> int:
    return sum(text.count(b"\n") for text in texts.values())


def left(out: Path) -> str:
    """What a kill left: "manifest", "weights", "files" or "nothing"."""
    partial = Path(f"{out}.partial")
    if (out / "manifest.json").is_file():
        return "manifest"
    weights = [p for folder in (out, partial) if folder.is_dir() for p in folder.rglob("*.safetensors")]
    if any(path.stat().st_size for path in weights):
        return "weights"
    return "files" if out.exists() or partial.exists() else "nothing"


def contents(out: Path) -> dict[str, str]:
    """{name: hash} of all files, those that tell of time without their times, and of all folders."""
    found = hashes(out) | {str(path.relative_to(out)): "folder" for path in out.rglob("*") if path.is_dir()}
    for name in found:
        if Path(name).name == "trainer_log.jsonl":
            lines = [json.loads(line) for line in (out / name).read_text().splitlines()]
            found[name] = repr([{key: value for key, value in line.items() if "time" not in key} for line in lines])
        elif Path(name).name in TELL_TIME:
            found[name] = ""
    return found


def differences(whole: dict[str, str], found: dict[str, str]) -> list[str]:
    lines = [f"{name} is missing" for name in sorted(whole.keys() - found.keys())]
    lines += [f"{name} is too much" for name in sorted(found.keys() - whole.keys())]
    return lines + [f"{name} differs" for name in sorted(whole) if name in found and whole[name] != found[name]]


if __name__ == "__main__":
    of_cases, of_results = map(Path, sys.argv[1:])
    of_results.write_text(json.dumps([Runs(case).do() for case in json.loads(of_cases.read_text())]))
