"""A document as the text that training sees. Each function gives (text, "") or ("", reason to drop it here)."""

import re

from nsllm_lite.document import Document, Section

# Sections that are Methods or Results by name; where a paper has one, sections with names of their own count too.
_STRICT = re.compile(
    r"((materials?|subjects|patients|participants|star|online)( and |, | & | ))?"
    r"(numerical |experimental |main )?(methods?|results?|procedures?)"
    r"([ /&,]+(and )?(discussions?|materials?|analysis|methods?|results?))?|"
    r"experimental( (section|set-?up|details))?|experiments?|methodology|evaluation|(the )?models?( description)?"
)
# Words that show a section to be experimental by itself; \b keeps "hypermethods" out.
_EXPERIMENTAL = re.compile(
    r"\b(methods?|methodolog(y|ies)|materials?|experiments?|experimental|results?|findings|procedures?|measurements?|"
    r"measuring|evaluations?|set-?up|apparatus|instrument(s|ation)|detectors?|samples?|specimens?|strains|reagents?|"
    r"chemicals|assays?|preparations?|calibration|participants|subjects|patients|study (design|population)|"
    r"data (collection|acquisition|analysis|taking|sets?)|datasets?|statistic(s|al (analys[ie]s|treatment))|"
    r"simulations?|protocols?|synthes[ie]s|characteri[sz]ation|case (report|presentation)s?|implementation|ablations?|"
    r"observations?|recordings?|analys[ie]s of)\b"
)
_OTHER = re.compile(
    r"^(introduction|background|motivation|overview|preliminaries|related work|previous|prior|discussions?|"
    r"interpretation|limitations|conclusions?|concluding|summary|outlook|future|acknowledge?ments?|funding|references|"
    r"abbreviations|appendi(x|ces)|author|theory|theoretical background|ethic)|"
    r"\b(supplement\w*|supporting information|additional (information|files?|material)|availability|"
    r"competing interests?|conflicts? of interest)\b"
)
_KINDS = re.compile(r"methods|materials|results|subjects|cases|procedures|measurements|experiment")
_NUMBERING = re.compile(r"^(\d+(\.\d+)*\.?|[ivx]+\.|[a-z][.)])\s+")


def phase1_text(document: Document, min_chars: int) -> tuple[str, str]:
    """Title, blank line, abstract. `min_chars` is asked of the abstract."""
    if not document.abstract:
        return "", "no_abstract"
    if len(document.abstract) < min_chars:
        return "", "too_short"
    return f"{document.title}\n\n{document.abstract}", ""


def phase2_text(document: Document, min_chars: int) -> tuple[str, str]:
    """Title, then each experimental section under its heading. `min_chars` is asked of the sections' text."""
    sections = experimental_sections(document)
    num_chars = sum(len(s.text) for s in sections)
    if not num_chars:
        return "", "no_experimental_section"
    if num_chars < min_chars:
        return "", "too_short"
    parts = [document.title]
    for section in sections:
        parts += [part for part in (section.heading, section.text) if part]
    return "\n\n".join(parts), ""


def general_text(document: Document, min_chars: int) -> tuple[str, str]:
    """General text under its title if it has one."""
    body = document.text or document.abstract
    if len(body) < min_chars:
        return "", "too_short"
    return f"{document.title}\n\n{body}" if document.title else body, ""


def experimental_sections(document: Document) -> list[Section]:
    """Methods, materials, set-up, results and their like, with all their subsections, in reading order.

    Where a section is Methods or Results by name, those with names of their own ("Gel analysis", "Our approach") are
    taken too, save introductions, discussions and the like. A heading without text stays only above one with text.
    """
    named = any(_is_named(s) for s in document.sections)
    chosen = [s for s in document.sections if _is_experimental(s) or (named and not _OTHER.search(_path(s)[0]))]
    chosen = [s for s in chosen if _path(s)[0]]
    return [s for n, s in enumerate(chosen) if s.text or any(_lies_under(t, s) and t.text for t in chosen[n + 1 :])]


def _lies_under(section: Section, above: Section) -> bool:
    path = (*above.parents, above.heading)
    return section.parents[: len(path)] == path


def _path(section: Section) -> list[str]:
    return [_NUMBERING.sub("", h.lower()).strip(" .:") for h in (*section.parents, section.heading)]


def _is_named(section: Section) -> bool:
    return any(_STRICT.fullmatch(heading) for heading in _path(section))


def _is_experimental(section: Section) -> bool:
    """By a heading on the way that leaves no doubt, the top heading, or the source's own label."""
    if _is_named(section):
        return True
    top = _path(section)[0]
    return not _OTHER.search(top) and bool(_KINDS.search(section.kind.lower()) or _EXPERIMENTAL.search(top))
