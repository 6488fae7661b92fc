"""What the reports of encoders' trainings say, on figures by hand."""

from nsllm_lite.train.encoder_report import masked_report, relations_report


def figures(loss: float, low: float, high: float, **more) -> dict:
    return {
        "loss": loss,
        "interval": [low, high],
        "top1": 0.25,
        "top1_interval": [0.2, 0.3],
        "papers": 7,
        "tokens": 900,
    } | more


def masked(after: dict, floors: dict) -> str:
    sets = {"before": {"masked": {"all": figures(8, 8, 8)}}, "after": {"masked": {"all": after}}}
    return masked_report({"heldout": sets, "floors": floors})


def test_a_floor_that_is_not_passed_is_said():
    floors = {"words": {"loss": 6.0, "top1": 0.03}, "word before": {"loss": 5.0, "top1": 0.12}}
    text = masked(figures(5.5, 5.4, 5.6), floors)
    assert "| all | 7 | 900 | 8.0000 | 5.5000 (5.4000 to 5.6000) | 25.0% | 25.0% (20.0% to 30.0%) |" in text
    assert "| word before | 5.0000 | 12.0% |" in text
    assert "**The table of word before tells masked tokens better" in text
    assert "table of words" not in text
    assert "cannot be told from the table of word before" in masked(figures(5.0, 4.9, 5.1), floors)
    assert "table of w" not in masked(figures(4.0, 3.9, 4.1), floors)


def test_relations_that_are_no_nearer_than_those_of_equal_tokens():
    before, after = figures(2, 2, 2), figures(0.4, 0.3, 0.5, floor=0.45)
    told = {"heldout": {"before": {"relations": {"all": before}}, "after": {"relations": {"all": after}}}}
    assert "has not learnt more than that" in relations_report(told)
    after["floor"] = 0.6
    text = relations_report(told)
    assert "has not learnt" not in text
    assert "| all | 7 | 900 | 2.0000 | 0.4000 (0.3000 to 0.5000) |" in text
