"""Published files of labelled words, pairs and texts: how many items they give, gold is 1, and the floors.

MatSci-NLP's files (github.com/BangLab-UdeM-Mila/NLP4MatSci-ACL23 at f9042f5, dataset/) are looked for in
matsci_nlp/dataset; those that are not there are skipped.
"""

import pytest

from nsllm_lite.tasks import gold
from nsllm_lite.tasks.gold_words import DOUBLE_ENCODED
from nsllm_lite.tasks.named_entities import APART, WITH_O
from nsllm_lite.tasks.task import TaskSet, all_tasks

MATSCI = "matsci_nlp/dataset/{}.json"
NO_WORD, NO_FORM = "no labelled word", "not in the form of its file"
BARE_EVENT, NO_EVENT, NO_RELATION = "an event without arguments", "no event in it", "no relation in it"
FILES = [  # task, file, items, left out, repaired
    ("named_entities", "ner_matscholar/test.txt", 546, {}, {WITH_O: 1}),
    ("named_entities", "ner_matscholar/train.txt", 4402, {}, {WITH_O: 2, APART: 1}),
    ("named_entities", "scibert/data/ner/sciie/test.txt", 551, {}, {}),
    ("entity_words", "ner_matscholar/test.txt", 536, {NO_WORD: 10}, {}),
    ("paper_class", MATSCI.format("glass_non_glass"), 1500, {}, {DOUBLE_ENCODED: 972}),
    ("named_entities", MATSCI.format("sofc_token"), 876, {}, {WITH_O: 12}),
    ("slots", MATSCI.format("sofc_token"), 876, {}, {}),
    ("entity_words", MATSCI.format("sc_comics"), 1000, {}, {}),
    ("event_arguments", MATSCI.format("sc_comics"), 2071, {BARE_EVENT: 707, NO_EVENT: 178}, {}),
    ("event_arguments", MATSCI.format("synthesis_procedures"), 2499, {BARE_EVENT: 1284, NO_FORM: 5}, {}),
    ("relations", MATSCI.format("sc_comics"), 2471, {NO_RELATION: 285}, {}),
    ("relations", MATSCI.format("structured_re"), 8941, {NO_RELATION: 146}, {}),
    ("synthesis_actions", MATSCI.format("synthesis_actions"), 2821, {NO_WORD: 219}, {}),
    ("sentence_class", MATSCI.format("sofc_sent"), 9466, {}, {}),
]


def set_of(real_data, name: str, file: str, train: str | None = None) -> TaskSet:
    task, paths = all_tasks()[name], [real_data / one for one in (file, train) if one]
    items, *pool = (task.fitted(tuple(task.read_items(path)), str(path)) for path in paths)
    pool = pool[0] if pool else ()
    return TaskSet(name, task, items, pool, (), task.labels_of((*items, *pool)))


@pytest.mark.parametrize(("name", "file", "size", "left_out", "repaired"), FILES)
def test_every_sentence_is_used_or_counted_and_gold_is_one(real_data, name, file, size, left_out, repaired):
    if not (real_data / file).is_file():
        pytest.skip(f"{file} is not there")
    counts = gold.counts_of(all_tasks()[name].read_gold(real_data / file))
    assert counts == {"left_out": left_out, "repaired": repaired}
    asked = set_of(real_data, name, file)
    assert len(asked.items) == size
    options = [asked.task.options(item, asked.labels) for item in asked.items]
    answers = [asked.task.parse(item.output, row) for item, row in zip(asked.items, options, strict=True)]
    assert asked.task.figures(answers, asked) == dict.fromkeys(asked.task.metrics, 1.0)
    assert asked.task.figures([None] * size, asked) == dict.fromkeys(asked.task.metrics, 0.0)


@pytest.mark.parametrize(
    ("name", "file", "train", "metric", "floor"),
    [
        ("named_entities", "ner_matscholar/test.txt", "ner_matscholar/train.txt", "entity_f1", 0.466),
        ("entity_words", "ner_matscholar/test.txt", "ner_matscholar/train.txt", "f1", 0.670),
    ],
)
def test_floors_of_matscholar(real_data, name, file, train, metric, floor):
    asked = set_of(real_data, name, file, train)
    figures = asked.task.floors(asked, 0)
    assert figures["dictionary"][metric] == pytest.approx(floor, abs=5e-4)
    assert figures["always none"][metric] == 0


def test_glass_is_a_question_of_yes_and_no_with_its_floor(real_data, capsys):
    asked = set_of(real_data, "paper_class", MATSCI.format("glass_non_glass"))
    assert "145 texts with other characters" in capsys.readouterr().out
    assert asked.labels == ("no", "yes")
    assert asked.task.floors(asked, 0)["always no"]["accuracy"] == pytest.approx(1008 / 1500)
