"""The text of a crystal as a grammar, in llguidance's Lark, for decoding that can write nothing else.

A grammar counts; it does not calculate. What it lets pass and the reader still refuses is angles that no cell has, and
an answer that its limit of tokens cuts off. Lengths begin at 1 Å.
"""

from nsllm_lite.science.crystal import ELEMENTS, LAYOUTS, MAX_SITES


def crystal_grammar(layout: str = "default", max_sites: int = MAX_SITES) -> str:
    """Of texts with 1 to `max_sites` sites, as `encode` writes them; one blank may stand before."""
    length, angle, coordinate = (_decimals(count) for count in LAYOUTS[layout])
    return "\n".join(
        [
            f'start: " "? LENGTHS "\\n" ANGLES site{{1,{max_sites}}}',
            'site: "\\n" ELEMENT "\\n" COORDINATES',
            f"LENGTHS: {_three(f'[1-9][0-9]{{0,2}}{length}')}",
            f"ANGLES: {_three(f'([1-9][0-9]?|1[0-7][0-9]){angle}')}",
            f"COORDINATES: {_three(f'0{coordinate}')}",
            f"ELEMENT: /{'|'.join(ELEMENTS)}/",
        ]
    )


def _decimals(count: int) -> str:
    return rf"\.[0-9]{{{count}}}" if count else ""


def _three(number: str) -> str:
    return f"/{number} {number} {number}/"
