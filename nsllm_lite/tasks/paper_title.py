"""The title of a paper from its text, the title left out."""

from nsllm_lite.formats.documents import Document
from nsllm_lite.tasks.task import ItemOrReason, Making
from nsllm_lite.tasks.title import TitleTask


class PaperTitle(TitleTask):
    def of_paper(self, paper: Document, making: Making) -> list[ItemOrReason]:
        return self.titled(paper, paper_text(paper, making.max_paper_chars), "no sections")


def paper_text(paper: Document, max_chars: int) -> str:
    """Abstract and sections under their headings, cut at the last paragraph's (or word's) end before `max_chars`; empty
    where the paper has no sections."""
    if not any(section.text for section in paper.sections):
        return ""
    parts = [paper.abstract, *(part for s in paper.sections for part in (s.heading, s.text))]
    text = "\n\n".join(part for part in parts if part)
    if len(text) <= max_chars:
        return text
    end = max(text.rfind("\n\n", 0, max_chars + 1), 0) or max(text.rfind(" ", 0, max_chars + 1), 0)
    return text[: end or max_chars].rstrip()


TASK = PaperTitle(
    name="paper_title",
    version=3,
    title="Title from a paper's text",
    instruction="Write the title of the paper that this text is taken from.",
    lead="Text",
    cue="Title",
    shots=2,
    new_tokens=64,
    chat_tokens=512,
)
