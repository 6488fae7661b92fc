"""The name of a paper from the identifiers that its record states, the same in whichever file it stands."""


def name(place: str, arxiv: str = "", pmid: str = "", doi: str = "", accession: str = "") -> str:
    """The first of the identifiers that is stated; `place` ("SOURCE:FILE#N") where none is.

    `doi` is as `as_doi` gives it, `accession` begins with its database ("wos:000123"). A PMID that is no number is
    passed over.
    """
    if arxiv:
        return f"arxiv:{arxiv}"
    if pmid.isascii() and pmid.isdigit():
        return f"pmid:{pmid}"
    return f"doi:{doi}" if doi else accession or place
