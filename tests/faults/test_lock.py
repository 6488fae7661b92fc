"""Two runs into one directory: the second refuses and names the first; a lock whose holder is gone is passed over."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from nsllm_lite import cli
from nsllm_lite.artifact import lock
from nsllm_lite.errors import UserError
from nsllm_lite.recipe.kinds import KINDS
from tests.raising import raises

HOLD = """
import sys, time
from pathlib import Path
from nsllm_lite.artifact import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def another_process(out):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def sign(path, **changes):
    path.write_text(json.dumps({"pid": 4321, "host": "node7", "since": "2026-01-01T00:00:00Z", "beat": 3} | changes))


def take(out):
    with lock.held(out):
        return json.loads((out.parent / f".{out.name}.lock").read_text())


def test_the_second_run_refuses_and_names_the_first(tmp_path, pico_recipe, capsys):
    asked = pico_recipe()
    out = tmp_path / "out"
    with another_process(out) as process:
        with raises("run-locked", out, f"process {process.pid} on {socket.gethostname()}", "since 20"):
            cli.run_step(asked)
        assert not out.exists()
    gone = f"process {process.pid} on {socket.gethostname()}, which"
    assert gone not in capsys.readouterr().out
    cli.run_step(asked)
    assert gone in capsys.readouterr().out  # it was killed
    assert (out / "manifest.json").is_file()
    assert not list(tmp_path.glob(".*.lock"))


def test_every_verb_holds_what_it_writes(tmp_path, monkeypatch):
    refused = []

    def take_again(recipe):
        with raises("run-locked", f"process {os.getpid()} on"):
            take(Path(recipe.out))
        refused.append(recipe.kind)

    monkeypatch.setattr(cli, "resolve_name", lambda name: take_again)
    for kind in KINDS:
        cli.run_step(SimpleNamespace(kind=kind, out=str(tmp_path / kind)))
    assert refused == list(KINDS)


def test_of_many_at_once_one_gets_it(tmp_path):
    held, refused, together = [], [], threading.Barrier(8)

    def run():
        together.wait()
        for _ in range(20):
            try:
                with lock.held(tmp_path / "new/out"):
                    held.append(1)
                    assert len(held) == 1
                    held.pop()
            except UserError:
                refused.append(1)

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(run) for _ in range(8)]:
            done.result()
    assert held == []
    assert len(refused) < 160


def test_a_run_that_writes_nothing_leaves_no_folder(tmp_path):
    take(tmp_path / "new/run/out")
    assert not (tmp_path / "new").exists()


def test_a_link_names_the_same_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/link").symlink_to(tmp_path / "real")
    with lock.held(tmp_path / "real"), raises("run-locked", tmp_path / "real"), lock.held(tmp_path / "elsewhere/link"):
        pass


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_is_no_folder_to_hold(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with raises("out-below-file", tmp_path / "file"), lock.held(tmp_path / name):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lock_of_another_machine_that_still_counts_is_respected(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "WATCH_S", 1.0)
    path = tmp_path / ".out.lock"
    sign(path)

    counting = threading.Timer(0.3, sign, [path], {"beat": 4})
    counting.start()
    with raises("run-locked", "process 4321 on node7", "2026-01-01", path):
        take(tmp_path / "out")
    counting.join()
    assert json.loads(path.read_text())["beat"] == 4


def test_one_that_stands_still_is_stale(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "WATCH_S", 0.3)
    sign(tmp_path / ".out.lock")
    assert take(tmp_path / "out")["pid"] == os.getpid()
    said = capsys.readouterr().out
    assert "watching for 0 s" in said
    assert said.count("process 4321 on node7") == 2


@pytest.mark.parametrize("pid", [os.getppid(), 2**22 + 1])
def test_without_flock_the_process_itself_is_looked_for(tmp_path, monkeypatch, pid):
    monkeypatch.setattr(lock.fcntl, "flock", Mock(side_effect=OSError("no locks here")))
    sign(tmp_path / ".out.lock", pid=pid, host=lock.socket.gethostname())
    if pid == os.getppid():
        with raises("run-locked", f"process {pid} on"):
            take(tmp_path / "out")
    else:
        assert take(tmp_path / "out")["pid"] == os.getpid()


def test_the_holder_counts_up(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    path = tmp_path / ".out.lock"
    with lock.held(tmp_path / "out"):
        first = json.loads(path.read_text())["beat"]
        time.sleep(0.3)
        assert json.loads(path.read_text())["beat"] > first


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff" * 400])
def test_a_lock_file_with_anything_in_it(tmp_path, content):
    (tmp_path / ".out.lock").write_bytes(content)
    assert take(tmp_path / "out")["pid"] == os.getpid()


def test_a_finished_result_can_be_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.os, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with lock.held(tmp_path / "out"):
        pass


def test_a_signal_gives_the_lock_back(tmp_path, pico_yaml, monkeypatch):
    monkeypatch.setattr(cli, "resolve_name", lambda name: lambda recipe: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(["train", pico_yaml]) == 143
    assert not list(tmp_path.glob(".*.lock"))
