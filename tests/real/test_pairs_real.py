"""Pairs from real papers: each kind that the sources state the fields of."""

from nsllm_lite.corpus.build import build
from nsllm_lite.formats.papers import CorpusPapers
from nsllm_lite.recipe import load as recipes
from nsllm_lite.train.pairs import Asked, make_pairs
from nsllm_lite.train.texts import TextWriter
from tests.corpus.small import general, values, write_lines


def test_real_papers_give_pairs_of_every_kind(real_data, tmp_path):
    write_lines(tmp_path / "general.jsonl", general())
    names = ("plos_jats", "wos_metaknowledge", "unarxive_sample")
    sources = [{"name": name, "path": str(real_data / name)} for name in names]
    build(recipes.validate({**values(tmp_path, "out", sources), "max_drop_share": 1.0}, "real files"))
    with TextWriter(tmp_path / "texts") as writer:
        pairs = make_pairs(CorpusPapers(tmp_path / "out"), Asked(4, 20, 0), writer)
    texts = writer.opened()
    counts = {kind: len(found) for kind, found in pairs.train.items()}
    assert counts["title-abstract"] > 150
    assert counts["keywords-abstract"] > 50
    assert counts["abstract-section"] > 20
    assert counts["citing-cited"] > 3
    assert counts["sentences"] > 2 * counts["title-abstract"]
    for found in (*pairs.train.values(), *pairs.heldout.values()):
        assert (texts.keys[found.queries] != texts.keys[found.positives]).all()
    assert not {*pairs.train["title-abstract"].papers} & {*pairs.heldout["title-abstract"].papers}
