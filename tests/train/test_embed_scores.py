"""What a held-out query is looked for among: documents of held-out papers, and of training papers up to a bound."""

from types import SimpleNamespace

import pytest

from nsllm_lite.formats.papers import CorpusPapers
from nsllm_lite.train.embed_plan import AllPairs
from nsllm_lite.train.embed_scores import HeldoutScores
from nsllm_lite.train.pairs import Asked, make_pairs
from nsllm_lite.train.texts import TextWriter
from tests.train.papers import paper, write_corpus

NUM, HELD = 30, {"arxiv:0000", "arxiv:0001", "arxiv:0002"}


@pytest.fixture
def scores_of(tmp_path):
    """A function from papers to (HeldoutScores, AllPairs)."""

    def make(papers, max_texts=1000, max_queries=100, seed=0):
        folder = tmp_path / f"corpus-{len(list(tmp_path.iterdir()))}"
        corpus = CorpusPapers(write_corpus(folder, papers, HELD))
        with TextWriter(folder / "texts.arrow") as writer:
            pairs = make_pairs(corpus, Asked(4, 20, 0), writer)
        every = AllPairs(writer.opened(), pairs, {}, pairs.names)
        evaluation = SimpleNamespace(max_queries=max_queries, max_texts=max_texts)
        recipe = SimpleNamespace(seed=seed, evaluation=evaluation, temperature=0.1, dimensions=[])
        return HeldoutScores(recipe, every), every

    return make


def shown(one, pairs):
    """({query: its documents}, all documents)"""
    documents = [pairs.texts[number] for number in one.documents]
    graded = zip(one.queries, one.grades, strict=True)
    return {pairs.texts[query]: {documents[at] for at in grades} for query, grades in graded}, documents


def test_documents_of_training_papers_stand_among_them(scores_of):
    papers = [paper(n) for n in range(NUM)]
    scores, pairs = scores_of(papers)
    queries, documents = shown(scores.sets["title-abstract"], pairs)
    assert queries == {one.title: {one.abstract} for one in papers[:3]}
    assert sorted(documents) == sorted(one.abstract for one in papers)
    assert scores.floors["title-abstract"]["documents"] == NUM
    _, sentences = shown(scores.sets["sentences"], pairs)
    assert set(sentences) == {f"{one.abstract.split('. ')[1]}." for one in papers}, "one of each paper"


def test_held_out_documents_come_first_and_the_others_are_drawn_by_seed_and_id(scores_of):
    papers = [paper(n) for n in range(NUM)]
    found = []
    for given, seed in ((papers, 0), (papers[::-1], 0), (papers, 1)):
        scores, pairs = scores_of(given, max_texts=12, seed=seed)
        found.append(set(shown(scores.sets["title-abstract"], pairs)[1]))
        assert len(found[-1]) == 12
        assert {one.abstract for one in papers[:3]} < found[-1]
    assert found[0] == found[1] != found[2]


def test_a_held_out_paper_looks_for_those_that_it_cites_in_any_split(scores_of):
    papers = [paper(n) for n in range(NUM)]
    papers[0] = paper(0, references=("arxiv:0007", "arxiv:0001"))
    papers[1] = paper(1, references=("arxiv:0008",))
    papers[9] = paper(9, references=("arxiv:0002",))
    scores, pairs = scores_of(papers, max_texts=8)
    one = scores.sets["citing-cited"]
    queries, documents = shown(one, pairs)
    assert queries == {
        papers[0].abstract: {papers[7].abstract, papers[1].abstract}, papers[1].abstract: {papers[8].abstract},
    }  # fmt: skip
    assert len(documents) == 8
    assert {papers[n].abstract for n in (0, 1, 2, 7, 8)} < set(documents)
    assert [documents[at] for at in one.own] == [papers[n].abstract for n in (0, 1)]


def test_the_same_words_are_one_document(scores_of):
    papers = [paper(n) for n in range(NUM)]
    papers[9] = paper(9, abstract=papers[0].abstract.upper())
    papers[2] = paper(2, title=papers[1].title)
    scores, pairs = scores_of(papers)
    queries, documents = shown(scores.sets["title-abstract"], pairs)
    assert queries == {
        papers[0].title: {papers[0].abstract}, papers[1].title: {papers[1].abstract, papers[2].abstract},
    }  # fmt: skip
    assert len(documents) == NUM - 1
