"""A corpus divided among processes is the corpus of one process, byte for byte."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsllm_lite.corpus import build, cluster, shards, sources
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.corpus import Source
from tests.corpus.small import DATA, digests, general, paper, prose, sample, values, write_lines
from tests.raising import raises


def citation(number):
    abstract = f"<Abstract><AbstractText>{prose(number)}</AbstractText></Abstract>"
    article = f"<Article><ArticleTitle>On {prose(number, 4)}</ArticleTitle>{abstract}</Article>"
    return f"<PubmedArticle><MedlineCitation><PMID>{number}</PMID>{article}</MedlineCitation></PubmedArticle>"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A function from a name to the recipe of a corpus so called: three formats, faults, duplicates, held out."""
    folder = tmp_path_factory.mktemp("cluster")
    near = paper(90, title=paper(4)["title"], abstract=paper(4)["abstract"] + " Indeed.")
    faults = [paper(50, title=""), paper(51, abstract="Short."), {**paper(1), "id": "2502.1"}, near, "{broken"]
    files = {
        "arxiv.jsonl": [*map(paper, range(25)), *faults],
        # Five of these repeat an abstract of the file before.
        "full.jsonl": [{**sample(i), "abstract": [["Results", paper(i)["abstract"]]]} for i in range(20, 36)],
        "general.jsonl": general(15),
    }
    for name, records in files.items():
        write_lines(folder / name, records)
    articles = "".join(map(citation, range(7000, 7020)))
    (folder / "pubmed.xml").write_text(f"<PubmedArticleSet>{articles}</PubmedArticleSet>")
    papers = [{"name": name.split(".")[0], "path": str(folder / name)} for name in (*files, "pubmed.xml")]
    del papers[2]  # general text is no source of papers

    def make(name, **changes):
        return recipes.validate({**values(folder, name, papers), "execution": {"workers": 1}, **changes}, "test")

    return make


@pytest.fixture(scope="module")
def in_one_process(corpus):
    made = corpus("one")
    counts = build.build(made)["documents"]
    assert sum(c["duplicate"] for c in counts.values()) == 7
    assert all(c["kept"] and c["heldout"] for c in counts.values())
    return digests(Path(made.out))


@pytest.mark.processes
def test_two_workers_make_the_same_corpus(corpus, monkeypatch):
    monkeypatch.setattr(shards, "TASK_BYTES", 6000)
    alone, shared = corpus("alone"), corpus("shared", execution={"workers": 2})
    build.build(alone)
    build.build(shared)
    made = digests(Path(alone.out))
    assert sum(name.startswith("documents/") for name in made) >= 5
    assert digests(Path(shared.out)) == made


@pytest.mark.processes
@pytest.mark.pictures
def test_a_local_chain_of_two_workers_makes_the_same_corpus_and_goes_on_where_it_ended(corpus, in_one_process):
    pytest.importorskip("datatrove")
    made = corpus("chain")
    chain = cluster.executors(made, "local", num_ranks=3, workers=2)
    chain[-2].run()  # all but the last step
    answers = sorted((Path(made.out) / "work").glob("*/[0-9]*.json"))
    assert len(answers) == 4 + 4 + 6  # files read, parts settled, sets of rows
    written = {path: path.stat().st_mtime_ns for path in answers}
    answers[1].unlink()
    cluster.executors(made, "local", num_ranks=2, workers=1)[-2].run()  # another division serves as well
    assert [path for path in answers if path.stat().st_mtime_ns != written[path]] == [answers[1]]
    chain[-1].run()
    assert len(in_one_process) > 15
    assert digests(Path(made.out)) == in_one_process
    times = Path(made.out, "times.json").stat()
    cluster.executors(made, "local", num_ranks=2, workers=1)[-1].run()  # finished: nothing is done again
    assert digests(Path(made.out)) == in_one_process
    assert Path(made.out, "times.json").stat() == times


def test_ranks_divide_the_tasks_among_them_and_pass_over_what_is_done(corpus, monkeypatch):
    made = corpus("ranks")
    build.begin(made)
    asked = []
    stage = shards.Stage("reading", asked.append, list("abcdefg"), [1] * 7, Path(made.out) / "work/tasks")
    monkeypatch.setitem(cluster.STAGES, "reading", lambda _: stage)
    shards.write_answer(stage.answers()[3], "done before")
    for rank in (1, 2, 0):
        cluster.run_rank(made, "reading", None, rank, 3)
    assert asked == list("becfag")
    assert shards.read_answer(stage.answers()[3]) == "done before"


def test_an_error_in_a_step_ends_the_chain(corpus):
    pytest.importorskip("datatrove")
    made = corpus("strict", max_drop_share=0.01)
    with raises("corpus-many-dropped", "max_drop_share=0.01", f"{made.out}/dropped.jsonl"):
        cluster.executors(made, "local", num_ranks=1, workers=1)[-1].run()
    assert not (Path(made.out) / "rows").exists()


def test_without_datatrove_the_error_says_what_to_install(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "datatrove.executor", None)
    with raises("cluster-not-installed", "'nsllm-lite[cluster]'"):
        cluster.executors(corpus("none"), "local", num_ranks=1)
    with raises("cluster-engine-unknown", "'spark'", "local", "slurm"):
        cluster.executors(corpus("none"), "spark", num_ranks=1)


@pytest.mark.processes
def test_a_process_that_lost_its_parent_takes_no_task(tmp_path):
    """Killed while it still imports, the parent cannot take it along; its tasks are those of the next run."""
    lines = "from nsllm_lite.corpus import shards; shards._be_a_worker({}); print('takes tasks')"
    for parent, output in (("__import__('os').getppid()", "takes tasks\n"), ("1 << 30", "")):
        done = subprocess.run([sys.executable, "-c", lines.format(parent)], capture_output=True, text=True, check=False)
        assert done.stdout == output, done.stderr


@pytest.mark.processes
@pytest.mark.parametrize(
    ("function", "task", "code", "quoted"),
    [
        (os._exit, 1, "corpus-process-died", "reading"),
        (sources.files_of, Source(name="s", path="no/such"), "source-absent", "no/such"),
    ],
)
def test_the_death_and_the_error_of_a_worker_are_told_apart(tmp_path, function, task, code, quoted):
    stage = shards.Stage("reading", function, [task, task], [1, 1], tmp_path / "tasks")
    with raises(code, quoted):
        shards.run_stage(stage, 2)


# ------------------------------------------------------------------------------- Slurm, as far as it can be imitated


@pytest.fixture
def submitted(tmp_path, monkeypatch):
    """A function that gives all scripts that were submitted to the imitated `sbatch`."""
    pytest.importorskip("datatrove")
    monkeypatch.setenv("SBATCH_FOLDER", str(tmp_path))
    monkeypatch.setenv("PATH", f"{DATA / 'slurm'}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    return lambda: [path.read_text() for path in sorted(tmp_path.glob("job-*"))]


OPTIONS = {"num_ranks": 2, "partition": "cpu", "time": "1:00:00", "mem_per_cpu_gb": 4}


def test_a_slurm_chain_is_submitted_whole_each_step_after_the_one_before(corpus, submitted):
    cluster.executors(corpus("submitted"), "slurm", at_once={"mem_per_cpu_gb": 64}, **OPTIONS)[-1].run()
    jobs = [job for job in submitted() if "launch_pickled_pipeline" in job]
    assert [job.split("--job-name=")[1].split()[0] for job in jobs] == [f"corpus-{step}" for step in cluster.STEPS]
    arrays = [job.split("--array=")[1].split()[0] for job in jobs]
    assert arrays == ["0-0%1", "0-1", "0-1", "0-0%1", "0-1", "0-0%1", "0-1", "0-0%1"]
    memory = [job.split("--mem-per-cpu=")[1].split()[0] for job in jobs]
    assert memory == ["64G", "4G", "4G", "64G", "4G", "64G", "4G", "64G"]
    numbers = [submitted().index(job) + 1 for job in jobs]
    assert "dependency" not in jobs[0].splitlines()[0]
    for number, job in zip(numbers, jobs[1:], strict=False):
        assert f"--dependency=afterok:{number}\n" in job


@pytest.mark.slow
def test_the_submitted_scripts_make_the_same_corpus(corpus, in_one_process, submitted, monkeypatch):
    monkeypatch.setenv("SBATCH_RUNS", "1")
    made = corpus("slurm")
    cluster.executors(made, "slurm", **OPTIONS)[-1].run()
    assert digests(Path(made.out)) == in_one_process
