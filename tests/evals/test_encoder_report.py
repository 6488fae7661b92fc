"""What the report of encoders says of floors, from differences made by hand."""

from nsllm_lite.evals.encoder_report import markdown


def difference(second: str, value: float, p: float, mode: str = "predicted", **more: str) -> dict:
    about = {"set": "s", "metric": "f1", "first": "a table", "second": second, "first_mode": "floor", "mode": mode}
    return about | {"value": value, "low": value - 0.1, "high": value + 0.1, "p": p} | more


def test_models_below_a_floor_and_those_that_cannot_be_told_from_it():
    differences = [
        difference("below", -0.4, 0.01), difference("level", 0.1, 0.2), difference("above", 0.4, 0.01),
        difference("lower", -0.1, 0.05), difference("untrained", -0.5, 0.01, mode="dense, untrained"),
        difference("another", -0.6, 0.01, first="a model", first_mode="predicted"),
        difference("elsewhere", -0.7, 0.01, set="other"), difference("fused", -0.2, 0.02, mode="fused with BM25"),
    ]  # fmt: skip
    about = {
        "name": "s",
        "task": "ner",
        "title": "Entities: s",
        "items": 9,
        "metrics": ["f1"],
        "floors": {},
        "notes": [],
    }
    about |= {"floors": {}, "notes": []}
    results = {"sets": [about], "scores": [], "differences": differences, "seeds": [], "warnings": [], "models": {}}
    text = markdown(results, {})
    told = [line for line in text.splitlines() if " the floor " in line]
    assert told == [
        "**below is below the floor a table** in F1: -0.400 [-0.500, -0.300].",
        "level cannot be told from the floor a table in F1: +0.100 [+0.000, +0.200].",
        "lower cannot be told from the floor a table in F1: -0.100 [-0.200, +0.000].",
        "**fused, fused with BM25, is below the floor a table** in F1: -0.200 [-0.300, -0.100].",
    ]
    assert all(f"\n\n{line}\n\n" in text for line in told), "each a paragraph"
    bold = [line for line in text.splitlines() if line.startswith("| ") and "**" in line]
    assert [line.split(" | ")[2] for line in bold] == ["below", "above", "untrained, dense, untrained", "another",
                                                       "elsewhere", "fused, fused with BM25"]  # fmt: skip
