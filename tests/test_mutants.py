"""The table of bench/mutants.py fits the package; that the tests catch its mutants is seen by running it."""

import re
import subprocess
import sys

import pytest

from bench import mutants


def test_each_mutant_has_its_own_name_can_be_applied_and_names_tests_that_exist():
    for mutant in mutants.MUTANTS:
        text = (mutants.ROOT / "nsllm_lite" / mutant.file).read_text(encoding="utf-8")
        changed = mutant.apply(text)
        assert changed != text
        compile(changed, mutant.file, "exec")
        for name in mutant.tests.split():
            file, _, test = name.partition("::")
            assert not test or f"def {test}(" in (mutants.ROOT / "tests" / file).read_text(encoding="utf-8"), name
            assert (mutants.ROOT / "tests" / file).is_file(), name
    assert len({mutant.name for mutant in mutants.MUTANTS}) == len(mutants.MUTANTS) >= 40


RUN = """
from bench import mutants
caught = next(mutant for mutant in mutants.MUTANTS if mutant.name == "dedup-jaccard")
raise SystemExit(mutants.run([caught, caught._replace(name="harmless", new=caught.old + " + 0")]))
"""


@pytest.mark.slow
def test_one_that_changes_nothing_survives():
    done = subprocess.run([sys.executable, "-c", RUN], cwd=mutants.ROOT, stdout=subprocess.PIPE, text=True, check=False)
    first, second, *last = done.stdout.splitlines()
    assert re.fullmatch(r"dedup-jaccard +tests/corpus/test_dedup.py::\w+  \(\d+ s\)", first)
    assert re.fullmatch(r"harmless +SURVIVED  \(\d+ s\)", second)
    assert last == ["1 of 2 caught", "  survived: harmless"]
    assert done.returncode == 1
