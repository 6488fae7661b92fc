"""`build` on many machines: its steps as a chain of datatrove executors, on Slurm or in local processes.

    from nsllm_lite.corpus.cluster import executors
    from nsllm_lite.recipe.load import load

    corpus = load("corpus.yaml")
    executors(corpus, "slurm", num_ranks=500, partition="cpu", time="4:00:00", mem_per_cpu_gb=4)[-1].run()

A parallel step has `num_ranks` ranks; rank r does the tasks r, r + num_ranks, ... that have no answer yet. So the chain
can be submitted before the number of tasks of a stage is known, the result is that of `build` byte for byte, and
after a failure the same call does the missing tasks. All machines must see the sources, `recipe.out` and the packages
under the same paths. It has not been run on a real Slurm cluster: the tests run its scripts with an imitated `sbatch`.

Why datatrove 0.10.1 and not Ray 2.60.0 (bench/corpus_engines.py, 100,000 abstracts on two cores): it takes 1.02 times
the time of `build`'s own processes, Ray 1.41 to 2.72 times with about twice the memory; it submits the Slurm arrays in
their order itself, and is 22 MB with its dependencies (Ray 259 MB, to be started on the nodes first). Its local pool
hangs when a worker is killed, so on one machine `build` is better; on Slurm each rank is a job of its own.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.corpus import build, shards
from nsllm_lite.errors import UserError
from nsllm_lite.recipe.corpus import Corpus

if TYPE_CHECKING:
    from datatrove.executor.base import PipelineExecutor

# In the order of `build.build`, which is also the last step: it reads all answers and finishes.
AT_ONCE: dict[str, Callable[[Corpus], object]] = {
    "begin": build.begin,
    "choose": build.choose_at_once,
    "prepare": build.prepare_packing,
    "finish": build.build,
}
STAGES = {"joining": build.joining, "reading": build.reading, "settling": build.settling, "packing": build.packing}
STEPS = ("begin", "joining", "reading", "choose", "settling", "prepare", "packing", "finish")


def executors(
    recipe: Corpus, engine: str, num_ranks: int, at_once: dict[str, Any] | None = None, **options: Any
) -> list["PipelineExecutor"]:
    """One executor a step, each depending on the one before, so that `run()` of the last starts them all.

    `options` are those of datatrove's executor: `workers`, the ranks that run at a time, and for Slurm `partition`,
    `time`, `mem_per_cpu_gb`, `venv_path`, ...; `at_once` replaces some for the steps that are not divided, which need
    more memory. Logs go to OUT.logs.

    Raises:
        UserError: datatrove is not installed, or there is no such engine.
    """
    executor = _executor(engine)
    logs = Path(f"{Path(recipe.out).absolute()}.logs")  # not in `out`, which contains only the result
    chain: list[PipelineExecutor] = []
    for number, step in enumerate(STEPS):
        own = {**options, "tasks": num_ranks}
        if step in AT_ONCE:
            own |= {"tasks": 1, "workers": 1, **(at_once or {})}
        if engine == "slurm":
            own.setdefault("job_name", f"corpus-{step}")
        chain.append(
            executor(
                pipeline=[partial(run_rank, recipe, step)],
                depends=chain[-1] if chain else None,
                logging_dir=str(logs / f"{number}-{step}"),
                skip_completed=False,  # the answers say what is done; a change of the recipe deletes them
                **own,
            )
        )
    return chain


def _executor(engine: str) -> type["PipelineExecutor"]:
    if engine not in ("local", "slurm"):
        found = f"There is no engine {engine!r}."
        raise UserError("cluster-engine-unknown", found, "Needed: local or slurm.", "Name one of these.")
    try:
        from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
    except ImportError:
        found = "datatrove is not installed, which divides a corpus among machines."
        todo = "Run pip install 'nsllm-lite[cluster]', or build on this machine with `nsllm-lite corpus`."
        raise UserError("cluster-not-installed", found, todo) from None
    return LocalPipelineExecutor if engine == "local" else SlurmPipelineExecutor


def run_rank(recipe: Corpus, step: str, _: object, rank: int, num_ranks: int) -> None:
    """A rank's share of a step; what follows `step` is what datatrove passes to a function in a pipeline."""
    if step != "begin" and read_manifest(Path(recipe.out)):  # finished before: `begin` has checked recipe and inputs
        return
    if step in AT_ONCE:
        AT_ONCE[step](recipe)
        return
    stage = STAGES[step](recipe)
    answers = stage.answers()
    for number in range(rank, len(answers), num_ranks):
        if not shards.is_done(answers[number]):
            shards.write_answer(answers[number], stage.function(stage.tasks[number]))
