"""The prompt of base models, which have no chat template: the same words in tuning and in evaluation."""


def plain_prompt(instruction: str, text: str) -> str:
    """Instruction, blank line, text, blank line, "Answer:" and a line end; what is empty is left out.

    It ends with a line end because no byte-level tokenizer joins one with the first word of an answer, so that the
    prompt has the same tokens with the answer behind it and without.
    """
    parts = [part.strip() for part in (instruction, text) if part.strip()]
    return "\n\n".join([*parts, "Answer:\n"])
