"""Word documents (.docx): one paper each, by its headings and paragraphs.

Kept and left out as `files.docx` and `files.blocks` say. The properties of the file (its author, its dates) state
nothing of the paper, and are not read. Files of Word before 2007 (.doc), and those with a password, are binary data.
"""

from typing import BinaryIO

from lxml import etree

from nsllm_lite.corpus.files.blocks import LOWEST, paper_of
from nsllm_lite.corpus.files.docx import blocks_in
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.streams import ERRORS
from nsllm_lite.formats.documents import Document


def read(file: BinaryIO, place: Place) -> Document | Unread:
    """The paper in a document."""
    try:
        blocks = list(blocks_in(file))
    except (*ERRORS, etree.LxmlError, KeyError) as error:
        return place.unread(f"damaged Word document: {' '.join(str(error).split())[:200]}")
    if not blocks:
        return place.unread("no text is in the document")
    return paper_of(blocks, place, trusts_levels=any(0 < block.level < LOWEST for block in blocks))
