"""BERTScore with any local encoder: similarity of two texts by the embeddings of their tokens.

Each token of one text is matched with the most similar one of the other (cosine of their last hidden states); the F1
of the two mean similarities is the score. There is no weighting by word frequency and no baseline, so
scores compare models under one encoder, and not with scores of another.
Source: Zhang et al., "BERTScore: evaluating text generation with BERT", ICLR 2020.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nsllm_lite import safety
from nsllm_lite.errors import UserError

BATCH_TEXTS = 32


class BertScore:
    """An encoder from a local folder; nothing is downloaded. Raises UserError where the folder holds none with
    safetensors and a tokenizer."""

    @staticmethod
    def require(folder: Path) -> None:
        if missing := [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]:
            found = f"{folder} is no encoder for BERTScore: it has no {' and no '.join(missing)}."
            todo = "Name a local folder of a model such as microsoft/deberta-v3-base or "
            todo += "allenai/scibert_scivocab_uncased."
            raise UserError("bert-score-no-encoder", found, todo)
        safety.require_plain_model(folder)

    def __init__(self, folder: Path, device: str):
        from transformers import AutoModel, AutoTokenizer

        self.require(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        options = {"trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
        self.model = AutoModel.from_pretrained(folder, **options).to(device).eval()
        longest = getattr(self.model.config, "max_position_embeddings", None) or 512
        self.max_tokens = min(longest - 2, 510)  # RoBERTa's positions begin at 2

    def score(self, texts: Sequence[str], references: Sequence[str]) -> list[float]:
        """F1 of each text with its reference; 0 for an empty one."""
        found = []
        for start in range(0, len(texts), BATCH_TEXTS):
            pairs = list(zip(texts[start : start + BATCH_TEXTS], references[start : start + BATCH_TEXTS], strict=True))
            one, other = (self._embed([pair[side] for pair in pairs]) for side in (0, 1))
            found += [_f1(a, b) for a, b in zip(one, other, strict=True)]
        return found

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> list[Tensor]:
        """Unit vectors of the tokens of each text, (T, H), without those that the tokenizer puts around it."""
        batch = self.tokenizer(
            [text or " " for text in texts], return_tensors="pt", padding=True, truncation=True,
            max_length=self.max_tokens, return_special_tokens_mask=True,
        ).to(self.model.device)  # fmt: skip
        own = batch.pop("special_tokens_mask") == 0
        hidden = torch.nn.functional.normalize(self.model(**batch).last_hidden_state.float(), dim=-1)
        return [row[mask] for row, mask in zip(hidden, own & batch["attention_mask"].bool(), strict=True)]


def _f1(one_TH: Tensor, other_TH: Tensor) -> float:
    if not len(one_TH) or not len(other_TH):
        return 0.0
    similarity = one_TH @ other_TH.T
    precision, recall = similarity.max(1).values.mean().item(), similarity.max(0).values.mean().item()
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
