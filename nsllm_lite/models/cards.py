"""Cards by name, from their datasheets: for plans, here or for another machine."""

import re
from typing import NamedTuple

from nsllm_lite.artifact.disk import GIB
from nsllm_lite.errors import UserError
from nsllm_lite.models.device import Card


class Speed(NamedTuple):
    """A card's dense bf16 peak (of the T4, which has no bf16, fp16) and its memory, by the datasheet.

    From Ada (8.9) on it has float8, whose peak with sums in fp32 is twice that of bf16. Source: NVIDIA's datasheets of
    the L4, L40S, H100 and H200 (halved where they count with sparsity), its Ada and RTX Blackwell whitepapers.
    """

    tflops: float
    gb_per_s: float
    gib: float  # that torch sees
    capability: tuple[int, int] = (8, 0)  # 8.6, too, has what 8.0 has
    share: float = 0.65  # of the roofline that a step is assumed to reach
    least: float = 0.45
    most: float = 0.85

    @property
    def fp8_tflops(self) -> float:
        return 2 * self.tflops


CARDS = {
    "H100 PCIe": Speed(756, 2000, 79, (9, 0)), "H100": Speed(989, 3350, 79, (9, 0)),
    "H200": Speed(989, 4800, 139, (9, 0)), "A100-SXM4-80GB": Speed(312, 2039, 79.2),
    "A100 80GB": Speed(312, 1935, 79.2), "A100": Speed(312, 1555, 39.4), "4090": Speed(165, 1008, 23.5, (8, 9)),
    "3090": Speed(71, 936, 23.5), "5090": Speed(209, 1792, 31.3, (12, 0)), "L40S": Speed(362, 864, 44.4, (8, 9)),
    "A6000": Speed(155, 768, 47.4), "A10": Speed(125, 600, 22), "A10G": Speed(70, 600, 22),
    "L40": Speed(181, 864, 44.4, (8, 9)), "L4": Speed(121, 300, 22, (8, 9), 0.45, 0.3, 0.6),
    "T4": Speed(65, 320, 14.6, (7, 5), 0.45, 0.3, 0.6),
}  # fmt: skip
"""By a word of the card's name; the first that fits. Their power limits hold the L4 and the T4 back."""

ANY = CARDS["4090"]  # for the choice among executions where the card is not known


def speed_of(card: Card) -> Speed | None:
    """None of a card that is in no table, as those of laptops, which have a desktop card's name and half its speed."""
    if re.search("laptop|max-q", card.name, re.IGNORECASE):
        return None
    return next((speed for word, speed in CARDS.items() if re.search(rf"\b{word}\b", card.name)), None)


def card_named(name: str | None, gib: float | None = None) -> Card:
    """A card that is not here, of `gib` where that is stated. Raises UserError where the name is in no table."""
    word = next((word for word in CARDS if name and re.search(rf"\b{word}\b", name, re.IGNORECASE)), None)
    if name and not word:
        raise UserError(
            "plan-card-unknown", f"--card {name}: known are {', '.join(CARDS)}.", "Name one, or set --vram GIB."
        )
    memory_bytes = int((gib or CARDS[word].gib) * GIB)
    return Card("cuda", memory_bytes, word or "a card", memory_bytes, CARDS[word].capability if word else (8, 0))
