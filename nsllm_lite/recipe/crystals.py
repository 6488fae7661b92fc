"""The recipe of instruction files made from structures."""

from typing import Annotated, Literal

from pydantic import Field

from nsllm_lite.recipe.values import Count, FilePath, HashedPath, Strict


class Crystals(Strict):
    """Instruction files of the tasks of crystals, at most `max_per_task` items of each in train and in test.

    `structures` are files or folders of CIF, POSCAR, pymatgen's JSON and tables with a `cif` column. A share of their
    reduced formulas is test, and nothing of them in train; with `split: prototype` a share of their structure types
    (space group and occupied sites), and neither these nor their formulas are in train. `layout` is that of the texts:
    2, 1 and 3 decimals of lengths, angles and coordinates, or LLaMat's 1, 0 and 2.
    """

    kind: Literal["crystals"]
    out: FilePath
    structures: Annotated[list[HashedPath], Field(min_length=1)]
    layout: Literal["default", "llamat"] = "default"
    split: Literal["formula", "prototype"] = "formula"
    test_share: Annotated[float, Field(gt=0, lt=1)]
    max_per_task: Count
    seed: int
