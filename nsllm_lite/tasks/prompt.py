"""The prompt of base models, which have no chat template: the same words in tuning and in evaluation."""


def plain_prompt(instruction: str, text: str) -> str:
    """Instruction, blank line, text, blank line, "Answer:" and a line end; what is empty is left out.

    The line end at its end keeps the prompt's tokens the same with and without an answer after it: no byte-level
    tokenizer merges a line end with the first word of the answer.
    """
    parts = [part.strip() for part in (instruction, text) if part.strip()]
    return "\n\n".join([*parts, "Answer:\n"])
