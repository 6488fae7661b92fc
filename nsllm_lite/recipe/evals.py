"""The recipes of evaluation: tasks, scores and the report."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.train import Execution
from nsllm_lite.recipe.values import (
    Count,
    FilePath,
    HashedPath,
    ModelPath,
    Name,
    Strict,
    TokenizerFrom,
    none_word,
    option,
    require_different,
)


class Report(Strict):
    """The table and picture after two phases; the folders are those that a run writes.

    With `documents`, a corpus's folder of them, bits per byte are also given by discipline.
    """

    kind: Literal["report"]
    out: FilePath
    base: ModelPath
    phase1: HashedPath
    model1: HashedPath
    phase2: HashedPath
    model2: HashedPath
    abstract_rows: HashedPath
    experiment_rows: HashedPath
    general_rows: HashedPath
    documents: HashedPath | None = None
    max_rows: Count
    execution: Execution = Execution()


TASKS = {
    "classification": "nsllm_lite.tasks.classification:TASK",
    "moves": "nsllm_lite.tasks.moves:TASK",
    "title": "nsllm_lite.tasks.title:TASK",
    "paper_title": "nsllm_lite.tasks.paper_title:TASK",
    "multiple_choice": "nsllm_lite.tasks.multiple_choice:TASK",
    "open": "nsllm_lite.tasks.open:TASK",
}
"""The tasks, in the order of NSLLM's radar chart: the name and the object of `tasks.task.Task`. A new task is its file
and a line here."""

EXTRACTION_TASKS = {
    "doping": "nsllm_lite.tasks.doping:TASK",
    "mof_general": "nsllm_lite.tasks.mof_general:TASK",
    "mof": "nsllm_lite.tasks.mof:TASK",
    "table_roles": "nsllm_lite.tasks.table_roles:TASK",
}
"""Tasks whose answer is JSON by a schema; their items come from files of gold answers."""

WORD_TASKS = {
    "named_entities": "nsllm_lite.tasks.named_entities:TASK",
    "entity_words": "nsllm_lite.tasks.entity_words:TASK",
    "slots": "nsllm_lite.tasks.slots:TASK",
    "event_arguments": "nsllm_lite.tasks.event_arguments:TASK",
    "synthesis_actions": "nsllm_lite.tasks.synthesis_actions:TASK",
    "relations": "nsllm_lite.tasks.relations:TASK",
    "sentence_class": "nsllm_lite.tasks.sentence_class:TASK",
    "paper_class": "nsllm_lite.tasks.paper_class:TASK",
}
"""Tasks of MatSci-NLP's kind: labels of words, pairs and texts; their items come from published files."""


def _gold_task(name: str) -> str:
    if name not in (known := (*TASKS, *EXTRACTION_TASKS, *WORD_TASKS)):
        todo = f"give one of {', '.join(known)}"
        raise UserError("gold-task-unknown", f"{name!r} is no task that has gold answers:", todo)
    return name


class GoldFiles(Strict):
    """Files of gold answers to one task, {system, question, answer} or {instruction, input, output}; `bundled:PATH` is
    within the sample."""

    task: Annotated[Name, AfterValidator(_gold_task)]
    train: list[HashedPath] = []
    test: list[HashedPath] = []

    @model_validator(mode="after")
    def _some(self) -> "GoldFiles":
        if not self.train and not self.test:
            raise UserError("gold-without-files", f"{self.task}: no files are given:", "give `train`, `test` or both")
        return self


class Tasks(Strict):
    """Instruction files made from a finished corpus, from files of gold answers, or both; at most `max_per_task` items
    of each task in train and in test.

    `questions` are files of questions about the corpus's papers, or `bundled:questions`. A paper's text is cut at
    `max_paper_chars`.
    """

    kind: Literal["tasks"]
    out: FilePath
    corpus: HashedPath | None = None
    questions: list[HashedPath] = []
    gold: list[GoldFiles] = []
    max_per_task: Count
    max_paper_chars: Count
    seed: int

    @model_validator(mode="after")
    def _of_something(self) -> "Tasks":
        if self.corpus is None and not self.gold:
            todo = "give `gold`, or `corpus`, a finished one (a whole run, such as make eval, sets it; --run DIR too)"
            raise UserError("tasks-of-nothing", "neither `corpus` nor `gold` is given:", todo)
        if self.corpus is None and self.questions:
            todo = "give `corpus` too, or questions=[]"
            raise UserError("tasks-questions-alone", "`questions` are about the papers of a corpus:", todo)
        require_different([one.task for one in self.gold], "gold tasks")
        return self


ENCODER_TASKS = ("ner", "qa", "retrieval", "multilabel", "pair")
"""What encoders are scored on. `classification` is a task of both: an encoder with a head for classes predicts it."""

CRYSTAL_TASKS = {
    "crystal_atoms": "nsllm_lite.tasks.crystals:ATOMS",
    "crystal_lengths": "nsllm_lite.tasks.crystals:LENGTHS",
    "crystal_angles": "nsllm_lite.tasks.crystals:ANGLES",
    "crystal_volume": "nsllm_lite.tasks.crystals:VOLUME",
    "crystal_element": "nsllm_lite.tasks.crystals:ELEMENT",
    "crystal_space_group": "nsllm_lite.tasks.crystals:SPACE_GROUP",
    "crystal_formula": "nsllm_lite.tasks.crystals:FORMULA",
    "crystal_replacements": "nsllm_lite.tasks.crystals:REPLACEMENTS",
    "crystal_of_formula": "nsllm_lite.tasks.crystal_writing:OF_FORMULA",
    "crystal_of_elements": "nsllm_lite.tasks.crystal_writing:OF_ELEMENTS",
    "crystal_infill": "nsllm_lite.tasks.crystal_writing:INFILL",
    "crystal_lattice": "nsllm_lite.tasks.crystal_writing:LATTICE",
}
"""Tasks of crystals as text; their items come from files of structures."""

LABELLED = "classification"


def file_tasks() -> tuple[str, ...]:
    """All that a file may be given as."""
    return (*TASKS, *EXTRACTION_TASKS, *WORD_TASKS, *CRYSTAL_TASKS, *ENCODER_TASKS)


def _known_task(name: str) -> str:
    if name not in file_tasks():
        raise UserError("task-unknown", f"{name!r} is no task:", f"give one of {', '.join(file_tasks())}")
    return name


Modes = Annotated[list[Literal["few-shot", "instruction"]], Field(min_length=1)]


class EvaluatedModel(Strict):
    """A model folder, a hub id, or an adapter's folder, which is evaluated on its base as its training held it.

    `modes` None: those of the recipe.
    """

    name: Name
    path: ModelPath
    quantisation: Literal["nf4", "none"] = "none"
    modes: Modes | None = None


class TaskFile(Strict):
    """A file of records {instruction, input, output} to be asked as `task`, with examples from the file `shots`.

    Without `shots` they come from the bundled sample where it has the same labels, else from the file itself: those
    records are then not scored.

    Of the tasks of encoders `path` is a file of tags, questions, labelled texts or pairs, or a folder for retrieval,
    and `shots` the training file, of which floors learn (without it train.txt beside test.txt, where there is one).
    """

    name: Name
    task: Annotated[Name, AfterValidator(_known_task)]
    path: HashedPath
    shots: HashedPath | None = None


class EvalExecution(Strict):
    """`batch_tokens` None: chosen from the available memory."""

    device: Literal["cpu", "cuda"] | None = None
    batch_tokens: Count | None = None
    backend: Annotated[Literal["transformers", "vllm"], option("vllm: where it is installed")] = "transformers"


class Eval(Strict):
    """Scores of models on tasks: those of a folder that `nsllm-lite tasks` wrote, or `bundled`; and on own files.

    `modes` None: few-shot, and instruction where the model's tokenizer has a chat template, or it was tuned here on
    instructions.
    """

    kind: Literal["eval"]
    out: Annotated[FilePath, option("folder to write (default: runs/eval, or the recipe's)", "DIR", typed="runs/eval")]
    models: Annotated[list[EvaluatedModel], Field(min_length=1)]
    tasks: Annotated[
        HashedPath | None,
        BeforeValidator(none_word),
        option("a folder of `nsllm-lite tasks` (default: the bundled items, or the recipe's)", "DIR", typed="bundled"),
    ]
    files: list[TaskFile] = []
    max_items: Annotated[Count | None, option("at most so many items of each task (default: all)", "N")] = None
    encoder: Annotated[FilePath | None, option("a local encoder: adds BERTScore to titles (default: none)", "DIR")] = (
        None
    )
    tokenizer_from: TokenizerFrom = None
    modes: Modes | None = None
    chat_tokens: Annotated[
        Count | None, option("of an answer to an instruction, at most (default: by the task, 512 or more)", "N")
    ] = None
    calibrate: Annotated[bool, option("labels also by contextual calibration, beside the raw scores")] = False
    cloze: Annotated[bool, option("multiple choice also by the likelihood of each choice's own words")] = False
    constrain: Annotated[bool, option("answers in JSON also by the grammar of their schema")] = False
    seed: Annotated[int, option("of examples and intervals", "N", typed=0)]
    execution: EvalExecution = EvalExecution()

    @model_validator(mode="after")
    def _names_differ(self) -> "Eval":
        require_different([model.name for model in self.models], "models")
        require_different([file.name for file in self.files], "files")
        if self.tasks is None and not self.files:
            todo = "give `tasks` (bundled, or a folder of tasks) or `files`"
            raise UserError("eval-without-tasks", "neither `tasks` nor `files` are given:", todo)
        if self.of_encoders:
            self.require_of_encoders()
        return self

    @property
    def of_encoders(self) -> bool:
        """Whether a file is of a task of encoders alone."""
        return any(file.task in ENCODER_TASKS for file in self.files)

    def require_of_encoders(self) -> None:
        """Raises UserError where tasks or options of language models are given too: nothing would heed them."""
        others = [f"{file.name} ({file.task})" for file in self.files if file.task not in (*ENCODER_TASKS, LABELLED)]
        if others or self.tasks is not None:
            found = f"tasks of encoders beside {', '.join(others) or f'tasks: {self.tasks}'}:"
            raise UserError("eval-kinds-mixed", found, "score encoders and language models in two evaluations")
        own = ("encoder", "tokenizer_from", "modes", "chat_tokens", "calibrate", "cloze", "constrain")
        given = [name for name in own if getattr(self, name)]
        given += [f"execution.{name}" for name in ("batch_tokens",) if getattr(self.execution, name)]
        given += ["execution.backend"] * (self.execution.backend != "transformers")
        given += [f"models: {one.name}" for one in self.models if one.modes or one.quantisation != "none"]
        given += [f"files: {file.name}: shots" for file in self.files if file.task == "retrieval" and file.shots]
        if given:
            found = f"{', '.join(given)}, with tasks of encoders:"
            raise UserError("eval-options-of-language-models", found, "leave them out: they do nothing there")


BEFORE = "before"  # the model before the first stage, in tables


class Stage(Strict):
    """A finished instruction tuning, and those of the files it holds out that are its own, or folders of them."""

    name: Name
    sft: HashedPath
    heldout: Annotated[list[FilePath], Field(min_length=1)]


class Stages(Strict):
    """The table of several stages of instruction tuning, in order; `scores` is an evaluation's folder whose models bear
    the stages' names, and "before"."""

    kind: Literal["stages"]
    out: FilePath
    stages: Annotated[list[Stage], Field(min_length=1)]
    scores: HashedPath | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> "Stages":
        require_different([stage.name for stage in self.stages], "stages")
        return self
