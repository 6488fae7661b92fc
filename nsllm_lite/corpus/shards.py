"""The corpus cut into tasks, and one way to run them: in this process, in several, or by another engine.

A stage is a function of one task that writes its files by rename and returns an answer: counts, and the hashes of those
files. The answer is written last, to FOLDER/NNNNN.json, so that after a kill only unfinished and damaged tasks are done
again. The division into tasks depends on the input alone: the number of workers does not change the result.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.json_files import read_json, write_sealed
from nsllm_lite.corpus import join, sources
from nsllm_lite.corpus.files.opening import HEAD_BYTES
from nsllm_lite.corpus.sources import File
from nsllm_lite.errors import RunError, UserError
from nsllm_lite.recipe.corpus import Corpus, Source
from nsllm_lite.terminal import progress

TASK_BYTES = 1 << 26
SMALL_BYTES = 1 << 24  # less input is read in this process: starting others takes a second each


class ReadTask(NamedTuple):
    """Consecutive files of one source, or a stretch of one large file."""

    number: int
    source: Source
    general: bool
    files: tuple[File, ...]
    num_bytes: int
    share: join.Share | None = None  # of papers in two files, in the place of `files`


def read_tasks(recipe: Corpus) -> list[ReadTask]:
    """All files of all sources in order, in tasks of about TASK_BYTES; last of a source what is joined from two."""
    tasks: list[ReadTask] = []
    halves = join_tasks(recipe)
    for source in (*recipe.sources, *recipe.general):
        mine = tuple(half for half in halves if half.source == source and source in recipe.sources)
        files = {half.file for half in mine}
        pieces = [piece for whole in sources.files_of(source) if whole not in files for piece in _pieces(whole)]
        start = num_bytes = 0
        for end, piece in enumerate(pieces, start=1):
            num_bytes += piece.num_bytes
            if num_bytes >= TASK_BYTES or end == len(pieces):
                files = tuple(pieces[start:end])
                tasks.append(ReadTask(len(tasks), source, source in recipe.general, files, num_bytes))
                start, num_bytes = end, 0
        for number in range(mine[0].num_shares if mine else 0):
            share = join.Share(number, tuple(half.number for half in mine))
            each = sum(half.file.num_bytes for half in mine) // mine[0].num_shares
            tasks.append(ReadTask(len(tasks), source, False, (), each, share))
    return tasks


def join_tasks(recipe: Corpus) -> list[join.JoinTask]:
    """The files of all sources that hold halves of papers, each to be divided into shares of about TASK_BYTES."""
    tasks: list[join.JoinTask] = []
    for source in recipe.sources:
        files = join.halves_of(source)
        shares = min(join.MAX_SHARES, 1 + sum(file.num_bytes for file in files) // TASK_BYTES)
        tasks += [join.JoinTask(len(tasks) + n, source, file, shares) for n, file in enumerate(files)]
    return tasks


def _pieces(file: File) -> Iterator[File]:
    """The file, or where it is large and has a record a line, stretches of whole lines."""
    size = 0 if file.refused else file.path.stat().st_size
    if size < 2 * TASK_BYTES or not _is_json_lines(file.path):
        yield file
        return
    start = 0
    with open(file.path, "rb") as stream:
        while start < size:
            stream.seek(min(start + TASK_BYTES, size))
            while (rest := stream.readline(HEAD_BYTES * 16)) and not rest.endswith(b"\n"):
                pass  # a line without end must not fill the memory
            end = stream.tell()
            yield file._replace(name=f"{file.name}@{start}" if start else file.name, start=start, end=end)
            start = end


def _is_json_lines(path: Path) -> bool:
    with open(path, "rb") as stream:
        lines = [stream.readline(HEAD_BYTES * 16).removeprefix(b"\xef\xbb\xbf").strip() for _ in range(2)]
    return all(line[:1] == b"{" and line[-1:] == b"}" for line in lines)


class Stage(NamedTuple):
    """What `run_stage` runs. Any process can make it from the recipe and the files of the earlier stages."""

    what: str
    function: Callable[[Any], Any]  # picklable
    tasks: Sequence[Any]
    sizes: Sequence[int]  # weigh the tasks for the progress bar
    folder: Path  # of the answers

    def answers(self) -> list[Path]:
        return [self.folder / f"{number:05d}.json" for number in range(len(self.tasks))]


def write_answer(path: Path, answer: Any) -> None:
    """Keeps what a task returned; paths under "files" are relative to the parent folder of the answers."""
    write_sealed(path, {"answer": answer})


def read_answer(path: Path) -> Any:
    return read_json(path)["answer"]


def is_done(path: Path) -> bool:
    """Whether the answer exists and all files listed in it are intact."""
    if not path.is_file():
        return False
    try:
        answer = read_answer(path)
        integrity.verify(path.parent.parent, known=answer.get("files", {}) if isinstance(answer, dict) else {})
    except UserError as error:
        print(f"{error.found} What made it is done again.")
        path.unlink()
        return False
    return True


def run_stage(stage: Stage, workers: int) -> list[Any]:
    """The answers to all tasks, in order; finished tasks are not run again."""
    what, function, tasks, sizes, folder = stage
    folder.mkdir(parents=True, exist_ok=True)
    answers = stage.answers()
    todo = [number for number, answer in enumerate(answers) if not is_done(answer)]
    done = sum(sizes) - sum(sizes[number] for number in todo)
    with progress(sum(sizes), done, what, "B", unit_scale=True) as bar:
        if workers == 1 or len(todo) < 2:
            for number in todo:
                write_answer(answers[number], function(tasks[number]))
                bar.update(sizes[number])
        else:
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(min(workers, len(todo)), context, _be_a_worker, (os.getpid(),))
            try:
                with _main_unseen():
                    numbers = {pool.submit(function, tasks[number]): number for number in todo}
                for future in as_completed(numbers):
                    write_answer(answers[numbers[future]], future.result())
                    bar.update(sizes[numbers[future]])
            except BaseException as error:
                for process in list((pool._processes or {}).values()):
                    process.kill()
                pool.shutdown(wait=True, cancel_futures=True)
                if isinstance(error, BrokenExecutor):
                    found = f"A process died while {what}: killed from outside, perhaps for lack of memory."
                    todo = "Run the same command again to continue; execution.workers=1 needs the least memory."
                    raise RunError("corpus-process-died", found, "Nothing that was finished is lost.", todo) from None
                raise
            pool.shutdown()
    return [read_answer(answer) for answer in answers]


@contextmanager
def _main_unseen() -> Iterator[None]:
    """Keeps new processes from running the caller's script again; all that they need can be imported by name."""
    main = vars(sys.modules["__main__"])
    hidden = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.pop("__spec__")
        main.update(hidden)


def _be_a_worker(parent: int) -> None:
    """Leaves Ctrl-C to the parent, and makes the worker die with a parent that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # killed before that: the tasks in the pipe are left to the next run
        os._exit(1)
