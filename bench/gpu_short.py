"""`python bench/gpu.py --short`: does everything work on this card, how fast, and in how much memory?

Doctor, `pytest -m gpu` and a merge beside the weights that training held run side by side while the base is made; then,
alone on the card: the ceilings, 20 steps as chosen, their largest kernels, 20 steps as for a card of 24 GB and held to
that, and TRL. What takes longer than its part may is stopped, what would end too late is left out, and either is said
and makes the exit status 1 (fewer steps are only said). Without a card the script tries itself out on a pico model.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import gpu
from nsllm_lite.models.device import find_device

TESTS = Path(__file__).parents[1] / "tests"
CHECKS = {
    "nsllm-lite doctor": {"function": "run_doctor"},
    "pytest -m gpu": {"function": "run_tests", "files": "test_gpu.py"},
    "a merge of what training held, bit for bit": {"function": "run_tests", "files": "merge/test_as_held.py"},
}
# Seconds that a part may take, 510 in all. Assumed for an H200, not measured: the checks compile kernels and layers;
# the base is loaded in 25 s; a step of 32,768 tokens takes 2 s, under the cap 3.3, and TRL's 6.
LIMITS = {"base": 70, "checks": 160, "ceilings": 15, "step": 110, "profile": 25, "caps": 110, "peers": 90}
OUTCOMES = ("failed", "error", "passed", "skipped")
MINUTES = 8.6  # 9 with the imports, which come before


def settle(options: argparse.Namespace) -> None:
    options.tiny |= find_device(options.device).device == "cpu"
    options.steps, options.minutes, options.json = 4 if options.tiny else 20, MINUTES, options.json or Path("gpu.json")


def run(bench: gpu.Bench, report: gpu.Report) -> None:
    """Adds every part to `report`; the checks side by side on a card, whose machine has the cores for it."""
    until = time.monotonic() + LIMITS["checks"]
    with ThreadPoolExecutor(len(CHECKS) if bench.device == "cuda" else 1) as pool:
        started = {what: pool.submit(gpu.run_fresh, bench, job, until) for what, job in CHECKS.items()}
        report.add("base", "made and written", lambda: gpu.make_base(bench) or {}, LIMITS["base"])
        for what, running in started.items():
            report.add("checks", what, running.result, LIMITS["checks"])

    def part(section: str, what: str, find: Callable[[float], dict]) -> None:
        report.add(section, what, lambda: find(report.until), LIMITS[section])

    loaded: list[gpu.Step] = []
    doc_tokens, (cap_gib, card_gib) = bench.row_tokens // 4, gpu.CAPS[0]
    part("ceilings", "matrix product, copy", lambda until: gpu.find_ceilings(bench))
    what = f"chosen, documents of {doc_tokens:,}"
    part("step", what, lambda until: gpu.time_step(bench, {}, loaded, doc_tokens, until - 20))
    part("profile", "one step of the chosen", lambda until: gpu.profile_step(bench, loaded))
    loaded.clear()
    what = f"card of {card_gib:g} GiB, torch held to {cap_gib:g}"
    part("caps", what, lambda until: report.beside_chosen(gpu.time_under_cap(bench, cap_gib, card_gib, until)))
    peer = ("trl", True, max(1, bench.options.steps // 6))
    part("peers", "trl, checkpointing", lambda until: report.beside_chosen(gpu.time_peer(bench, *peer, until)))


def run_doctor(bench: gpu.Bench, job: dict) -> dict:
    """On a card every check applies."""
    from nsllm_lite.commands.doctor import doctor

    found = doctor()
    verdicts = Counter(check["verdict"] for check in found["checks"])
    failed = bool(found["failed"]) or (bench.device == "cuda" and verdicts["n/a"] > 0)
    return {"note": "; ".join([words_of(verdicts), *found["failed"]]), "failed": failed, "checks": found["checks"]}


def run_tests(bench: gpu.Bench, job: dict) -> dict:
    """On a card those that need one, and none is skipped; without, the others of these files."""
    import pytest

    class Outcomes:
        def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
            self.of = {name: reports for name, reports in terminalreporter.stats.items() if name in OUTCOMES}

    seen, which = Outcomes(), "gpu" if bench.device == "cuda" else "gpu or not gpu"
    status = pytest.main(["-m", which, "-p", "no:cacheprovider", str(TESTS / job["files"])], [seen])
    failures = [each.longreprtext[-1500:] for name in OUTCOMES[:2] for each in seen.of.get(name, [])]
    failed = status != 0 or (bench.device == "cuda" and "skipped" in seen.of)
    note = words_of({name: len(reports) for name, reports in seen.of.items()})
    return {"note": note, "failed": failed, "failures": failures}


def words_of(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


JOBS = {job.__name__: job for job in (run_doctor, run_tests)}
