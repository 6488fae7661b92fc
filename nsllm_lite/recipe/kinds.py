"""The kinds of recipes."""

from typing import get_args

from nsllm_lite.recipe.corpus import Corpus
from nsllm_lite.recipe.evals import Eval, Report, Tasks
from nsllm_lite.recipe.merge import Merge
from nsllm_lite.recipe.train import Sft, Train
from nsllm_lite.recipe.values import Strict

Recipe = Corpus | Train | Merge | Report | Tasks | Sft | Eval
KINDS: dict[str, type[Strict]] = {get_args(cls.model_fields["kind"].annotation)[0]: cls for cls in get_args(Recipe)}
