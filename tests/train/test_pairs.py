"""Pairs from a corpus: what each field gives, what is left out, who cites whom, and which go together in a batch."""

import json

import numpy as np
import pytest

from nsllm_lite.formats.documents import Section
from nsllm_lite.formats.papers import CorpusPapers
from nsllm_lite.recipe.embed import HardNegatives
from nsllm_lite.train.hard_negatives import HardNegativeSearch
from nsllm_lite.train.pair_batches import PairBatches, in_turn
from nsllm_lite.train.pair_files import read_pairs
from nsllm_lite.train.pairs import Asked, Pairs, make_pairs, sentences_of
from nsllm_lite.train.texts import TextWriter, key64, plain
from tests.raising import raises
from tests.train.papers import paper, write_corpus

ASKED = Asked(sentences_per_paper=4, max_citing=20, seed=0)


@pytest.fixture
def made(tmp_path):
    """A function from papers to (pairs, texts)."""

    def make(*papers, heldout=(), asked=ASKED):
        folder = tmp_path / f"corpus-{len(list(tmp_path.iterdir()))}"
        corpus = CorpusPapers(write_corpus(folder, papers, heldout))
        with TextWriter(folder / "texts.arrow") as writer:
            pairs = make_pairs(corpus, asked, writer)
        return pairs, writer.opened()

    return make


def shown(pairs: Pairs, texts) -> list[tuple[str, str]]:
    return [(texts[one], texts[other]) for one, other in zip(pairs.queries, pairs.positives, strict=True)]


def test_each_field_gives_its_pairs(made):
    sections = (
        Section("Introduction", "Tin is known."),
        Section("Methods", "We heat it."),
        Section("Results", "It melts."),
    )
    one = paper(1, keywords=("tin", "whiskers"), sections=sections)
    pairs, texts = made(one)
    assert shown(pairs.train["title-abstract"], texts) == [(one.title, one.abstract)]
    assert shown(pairs.train["keywords-abstract"], texts) == [("tin; whiskers", one.abstract)]
    assert shown(pairs.train["abstract-section"], texts) == [(one.abstract, "We heat it.\nIt melts.")]
    first, second, _ = one.abstract.split(". ")
    assert shown(pairs.train["sentences"], texts) == [(f"{first}.", f"{second}.")]
    assert len(texts) == 6, "the abstract once"


def test_a_paper_without_a_field_is_counted_with_the_reason(made):
    papers = [paper(1, title=""), paper(2, abstract=""), paper(3, abstract="One short sentence of few words only.")]
    pairs, _ = made(*papers)
    assert pairs.left_out["title-abstract"] == {"no title": 1, "no abstract": 1}
    assert pairs.left_out["keywords-abstract"] == {"states no keywords": 3}
    assert pairs.left_out["abstract-section"] == {"no abstract": 1, "no experimental section": 2}
    assert pairs.left_out["sentences"] == {"no two sentences": 2}
    assert pairs.left_out["citing-cited"] == {"states no references": 3}


def test_pairs_that_give_themselves_away_are_left_out(made):
    papers = [paper(1, title="Tin Whiskers grow", abstract="tin whiskers: grow!"),
              paper(2, title="Tin whiskers", abstract="Tin whiskers grow under stress.")]  # fmt: skip
    pairs, _ = made(*papers)
    assert not len(pairs.train["title-abstract"])
    reasons = pairs.left_out["title-abstract"]
    assert sorted(reasons.values()) == [1, 1]
    assert len(reasons) == 2


def test_citations_are_resolved_by_id_and_title(made):
    papers = [
        paper(1, references=("doi:10.1/two", "arxiv:0003", "Nowhere to be found in this corpus")),
        paper(2, doi="10.1/two", references=("On the growth: of four tin whiskers.", "arxiv:0002")),
        paper(3, abstract=""),
        paper(4, title="On the Growth of Four Tin Whiskers", references=("arxiv:0099",)),
    ]
    pairs, texts = made(*papers)
    assert set(cited(pairs.train, texts, papers)) == {("0001", "0002"), ("0001", "0003"), ("0002", "0004")}
    assert pairs.left_out["citing-cited"]["cites no other paper of the corpus"] == 1
    place = {name: number for number, name in enumerate(pairs.names)}
    assert pairs.links[place["arxiv:0002"]] == {place["arxiv:0001"], place["arxiv:0004"]}


def cited(of_split, texts, papers) -> list[tuple[str, str]]:
    """(citing, cited) by the ends of their ids."""
    names = {one.abstract or one.title: one.id[-4:] for one in papers}
    return [(names[one], names[other]) for one, other in shown(of_split["citing-cited"], texts)]


def test_a_held_out_paper_is_cited_in_no_training_pair_and_scored_by_all_that_it_cites(made):
    papers = [
        paper(1, references=("arxiv:0002", "arxiv:0009")),
        paper(2),
        paper(8, references=("arxiv:0001", "arxiv:0009")),
        paper(9, references=("arxiv:0001",)),
    ]
    for max_citing in (20, 1):
        pairs, texts = made(*papers, heldout={"arxiv:0008", "arxiv:0009"}, asked=ASKED._replace(max_citing=max_citing))
        assert cited(pairs.train, texts, papers) == [("0001", "0002")]
        assert cited(pairs.heldout, texts, papers) == [("0008", "0001"), ("0008", "0009"), ("0009", "0001")]
        assert pairs.left_out["citing-cited"] == {"states no references": 1, "a training paper cites a held-out one": 1}
    held = {texts[number] for number in pairs.heldout_texts().tolist()}
    assert {papers[2].abstract, papers[3].abstract} < held
    assert papers[0].abstract not in held, "a training paper's, though it is scored with"


def test_a_much_cited_paper_gives_a_bounded_number(made):
    papers = [paper(0), *(paper(n, references=("arxiv:0000",)) for n in range(1, 8))]
    few, _ = made(*papers, asked=ASKED._replace(max_citing=3))
    again, _ = made(*reversed(papers), asked=ASKED._replace(max_citing=3))
    assert len(few.train["citing-cited"]) == 3
    assert few.left_out["citing-cited"]["beyond max_citing"] == 4

    def citing(found):
        return {found.names[one] for one in found.train["citing-cited"].papers}

    assert citing(few) == citing(again), "drawn by id"
    assert citing(few) != citing(made(*papers, asked=Asked(4, 3, seed=1))[0])


def test_held_out_papers_are_scored_and_not_trained_on(made):
    pairs, _ = made(*(paper(n) for n in range(6)), heldout={"arxiv:0002", "arxiv:0004"})
    assert [pairs.names[one] for one in pairs.heldout["title-abstract"].papers] == ["arxiv:0002", "arxiv:0004"]
    for kind in pairs.train:
        assert not {*pairs.train[kind].papers} & {2, 4}
        assert {*pairs.heldout[kind].papers} <= {2, 4}


def test_sentences_end_where_a_reader_would_say():
    text = "The mass is 2.5 kg in this case here. (It was not before that day.) α-tin then turns into β-tin again. So."
    assert sentences_of(text) == [
        "The mass is 2.5 kg in this case here.", "(It was not before that day.) α-tin then turns into β-tin again."
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ batches


def batches(rows, size, links=None, seed=0, words=None) -> PairBatches:
    """Of rows (query, positive, paper, other), whose words are their numbers, or `words` of them."""
    pairs = Pairs.of(rows)
    most = int(max(pairs.queries.max(), pairs.positives.max())) + 1
    keys = np.array([(words or {}).get(number, number) for number in range(most)], np.uint64)
    return PairBatches("title-abstract", pairs, keys, links or {}, size, seed, 0)


def plain_rows(count):
    return [(2 * n, 2 * n + 1, n, n) for n in range(count)]


def test_an_epoch_shows_each_paper_once_by_one_of_its_pairs():
    rows = [(4 * n + 2 * m, 4 * n + 2 * m + 1, n, n) for n in range(12) for m in range(2)]
    made = batches(rows, 4)
    for epoch in range(3):
        shown = np.concatenate([made.batch(3 * epoch + number) for number in range(3)])
        assert sorted(made.pairs.papers[shown]) == list(range(12))
    drawn = {tuple(sorted(np.concatenate([made.batch(3 * epoch + n) for n in range(3)]))) for epoch in range(6)}
    assert len(drawn) > 3, "not always the same pair of a paper"


def test_a_batch_follows_from_seed_and_number_alone():
    one, other = batches(plain_rows(20), 4), batches(plain_rows(20), 4)
    later = one.batch(13)
    assert (later == one.batch(13)).all()
    assert one.batch(2).tolist() == other.batch(2).tolist()
    assert other.batch(13).tolist() == later.tolist()
    assert batches(plain_rows(20), 4, seed=1).batch(2).tolist() != one.batch(2).tolist()


def test_what_could_be_right_is_no_negative():
    links = {n: {n ^ 1} for n in range(20)}  # each cites its neighbour
    made = batches(plain_rows(20), 5, links)
    for number in range(12):
        papers = set(made.pairs.papers[made.batch(number)].tolist())
        assert len(papers) == 5
        assert not any(n ^ 1 in papers for n in papers)
    same_words = batches(plain_rows(10), 4, words={2 * n: 0 for n in range(5)})  # five queries alike
    for number in range(8):
        assert sum(int(place) < 5 for place in same_words.batch(number)) <= 1


def test_another_answer_to_the_same_question_is_no_negative():
    """0-1, 0-3 and 4-3: 3 answers 0 as well, so that 0-1 and 4-3 do not go together."""
    rows = [(0, 1, 0, 0), (0, 3, 1, 1), (4, 3, 2, 2), *((2 * n, 2 * n + 1, n, n) for n in range(3, 12))]
    made = batches(rows, 5)
    for number in range(20):
        assert len({0, 1, 2} & set(made.batch(number).tolist())) <= 1
    assert made.words_of(np.array([0])) == {0, 1, 3}


def test_a_batch_that_cannot_be_filled_is_refused():
    with raises("embed-batch-not-filled", "20", "21"):
        batches(plain_rows(20), 21)
    with raises("embed-batch-not-filled", "10", "12"):
        batches(plain_rows(20), 12, {n: {n ^ 1} for n in range(20)})


def test_each_kind_has_its_share_of_steps_at_any_time():
    turns = in_turn({"a": 2.0, "b": 1.0, "c": 1.0}, 40)
    for steps in range(1, 41):
        for name, share in (("a", 0.5), ("b", 0.25), ("c", 0.25)):
            assert abs(turns[:steps].count(name) - share * steps) <= 1


# ----------------------------------------------------------------------------------------------------- hard negatives


def test_hard_negatives_share_words_and_are_no_answers(tmp_path):
    documents = [f"tin whiskers grow on copper {'x' * n}" for n in range(6)] + [
        f"lead melts {'y' * n}" for n in range(6)
    ]
    with TextWriter(tmp_path / "t") as writer:
        rows = [(writer.add(f"tin whiskers {n}"), writer.add(text), n, n) for n, text in enumerate(documents)]
    texts, pairs = writer.opened(), Pairs.of(rows)
    search = HardNegativeSearch(HardNegatives(count=2, first_rank=1, last_rank=6), pairs, texts, seed=0)
    places = np.array([0, 7])
    answer = {int(texts.keys[rows[4][1]])}
    found, num_easy = search.of(places, blocked={0, 7, 3}, words=answer, step=1)
    assert (found.shape, num_easy) == ((2, 2), 0)
    shown = [[texts[number] for number in row] for row in found.tolist()]
    assert all(text.startswith("tin") for row in shown for text in row)
    assert not {documents[0], documents[3], documents[4]} & {text for row in shown for text in row}
    assert found.tolist() == search.of(places, {0, 7, 3}, answer, 1)[0].tolist()
    found, num_easy = search.of(places, blocked=set(range(5)), words=set(), step=1)
    assert num_easy == 2, "one document with these words is left for each"
    assert all(documents.index(texts[row[1]]) >= 6 for row in found.tolist())
    batches = PairBatches("title-abstract", pairs, texts.keys, {}, 10, 0, 0)
    search.require_enough(batches, 1)  # two of twelve documents are left, and two negatives asked for
    with raises("embed-negatives-few", "title-abstract", "12", "batch_pairs=11"):
        search.require_enough(PairBatches("title-abstract", pairs, texts.keys, {}, 11, 0, 0), 1)
    with raises("embed-negatives-few"):
        search.require_enough(PairBatches("title-abstract", pairs, texts.keys, {0: {10}, 10: {0}}, 10, 0, 0), 40)
    with raises("embed-ranks-beyond", 12, 40):
        HardNegativeSearch(HardNegatives(count=1, first_rank=1, last_rank=40), pairs, texts, 0)


# -------------------------------------------------------------------------------------------------------------- files


def read(path, heldout=frozenset()):
    with TextWriter(path.parent / "texts") as writer:
        found = read_pairs(path, writer, 100, heldout)
    return found, writer.opened()


def test_pairs_of_a_file(tmp_path):
    records = [
        {"query": "what is tin", "positive": "a metal", "negatives": ["a gas", "a wine"]},
        {"query": "what is neon", "positive": "a gas", "negatives": ["a metal"]},
        {"query": "held", "positive": "out", "negatives": ["in"]},
        {"query": "Same words", "positive": "same, words!", "negatives": ["x"]},
        {"query": "what is tin", "positive": "What is tin, you ask", "negatives": ["x"]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    found, texts = read(tmp_path / "a.jsonl", {key64(plain("out"))})
    assert shown(found.pairs, texts) == [("what is tin", "a metal"), ("what is neon", "a gas")]
    assert [[texts[n] for n in row] for row in found.pairs.negatives] == [["a gas"], ["a metal"]]
    assert found.names == ["a.jsonl:1", "a.jsonl:2"]
    assert found.pairs.papers.tolist() == [100, 101]
    assert sorted(found.left_out.values()) == [1, 1, 1]
    assert any("2" in note and "1" in note for note in found.notes), "one of up to two negatives is used"
    (tmp_path / "b.csv").write_text('query,positive,negatives\nq,p,"[""n"", ""m""]"\nr,s,t\n')
    found, texts = read(tmp_path / "b.csv")
    assert shown(found.pairs, texts) == [("q", "p"), ("r", "s")]
    assert found.pairs.negatives.shape == (2, 1)


def test_a_negative_of_a_held_out_paper_is_not_trained_on(tmp_path):
    records = [
        {"query": "what is tin", "positive": "a metal", "negatives": ["Held, out!", "a wine", "a gas"]},
        {"query": "what is neon", "positive": "a gas", "negatives": ["a metal", "a wine"]},
        {"query": "what is wine", "positive": "a drink", "negatives": ["a gas", "held out"]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    found, texts = read(tmp_path / "a.jsonl", {key64(plain("held out"))})
    assert "held out" not in {plain(texts[number]) for number in range(len(texts))}
    assert shown(found.pairs, texts) == [("what is tin", "a metal"), ("what is neon", "a gas")]
    assert [[texts[n] for n in row] for row in found.pairs.negatives] == [["a wine", "a gas"], ["a metal", "a wine"]]
    assert found.left_out == {
        "negatives that are a text of a held-out paper": 2,
        "too few negatives without those of held-out papers": 1,
    }
    found, _ = read(tmp_path / "a.jsonl", {key64(plain(one)) for one in ("held out", "a wine", "a gas")})
    assert (len(found.pairs), found.pairs.negatives.shape) == (0, (0, 2))


@pytest.mark.parametrize(
    "record",
    [{"query": "q"}, {"query": "", "positive": "p"}, {"query": "q", "positive": ["p"]},
     {"query": "q", "positive": "p", "negatives": "[n"}, {"query": "q", "positive": "p", "negatives": [1]},
     {"query": "q", "positive": "p", "negatives": ["P."]}],
)  # fmt: skip
def test_a_record_that_is_no_pair_is_named_by_its_line(tmp_path, record):
    good = {"query": "one", "positive": "two"}
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(record)}\n")
    with raises("example-unfit", tmp_path / "a.jsonl", "line 2"):
        read(tmp_path / "a.jsonl")
