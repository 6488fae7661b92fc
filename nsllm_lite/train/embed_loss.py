"""The losses of an embedding model and their gradients, for batches of any size in the memory of a few texts.

The loss of a batch needs all its embeddings at once, their activations not: the texts are embedded without gradients,
the loss is differentiated down to the embeddings, then the texts are embedded again, a few at a time, and each
embedding's gradient goes on into the weights. Dropout draws the same both times: from (seed, step, place).
Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsllm_lite.artifact import interrupts
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import autocast
from nsllm_lite.models.embedding import Role
from nsllm_lite.recipe.embed import Embed

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LOSS_ROWS = 256  # of the batch's similarities at a time


class BatchLoss(Protocol):
    """`reps` are columns (queries, documents, more documents) of one tensor (B, D) each."""

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False
    ) -> Tensor: ...


class SimilarityLoss(nn.Module):
    """Kullback-Leibler divergence from a teacher's softmax over a batch's documents, of each query, to the student's.

    `labels` are the teacher's embeddings, columns as those of the student, of any width. Both cosines are divided by
    the same `temperature`. Source: Bhattacharjee et al., "INDUS", arXiv 2405.10725, section 3.3.
    """

    uses_gradient_cache = True  # as sentence-transformers asks of a loss that its MatryoshkaLoss wraps

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature

    def calculate_loss(self, reps: list[list[Tensor]], labels: list[Tensor], *, with_backward: bool = False) -> Tensor:
        student = [functional.normalize(torch.cat(column), dim=1) for column in reps]
        teacher = [functional.normalize(column.float(), dim=1) for column in labels]
        loss = torch.zeros((), device=student[0].device)
        documents, known = torch.cat(student[1:]), torch.cat(teacher[1:])
        for first in range(0, len(student[0]), LOSS_ROWS):
            rows = slice(first, first + LOSS_ROWS)
            own, told = (
                functional.log_softmax(queries[rows] @ all_documents.T / self.temperature, dim=1)
                for queries, all_documents in ((student[0], documents), (teacher[0], known))
            )
            loss = loss + functional.kl_div(own, told, reduction="sum", log_target=True) / len(student[0])
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss


def make_loss(recipe: Embed, model: "SentenceTransformer") -> BatchLoss:
    """That of sentence-transformers with the four directions in one partition, or of a teacher's similarities; with
    `dimensions` their sum over the first so many of the embedding's numbers."""
    from sentence_transformers.sentence_transformer import losses

    if recipe.teacher:
        loss: Any = SimilarityLoss(recipe.temperature * recipe.teacher.softening)
    else:
        loss = losses.CachedMultipleNegativesRankingLoss(
            model, scale=1 / recipe.temperature, mini_batch_size=LOSS_ROWS, directions=tuple(recipe.directions),
            partition_mode="joint",
        )  # fmt: skip
    if recipe.dimensions:
        losses.MatryoshkaLoss(model, loss, dimensions_of(recipe, model.get_embedding_dimension()))  # wraps it in place
    return loss


def dimensions_of(recipe: Embed, whole: int) -> list[int]:
    """Those of the recipe and all, the largest first."""
    return sorted({*recipe.dimensions, whole}, reverse=True)


class Step(NamedTuple):
    loss: float
    num_tokens: int
    num_cut: int  # texts that were longer than the model reads
    num_texts: int


class CachedEmbedder:
    """A model of sentence-transformers at work, on `texts_at_a_time` of about the same length."""

    def __init__(self, model: "SentenceTransformer", texts_at_a_time: int, dtype: str, seed: int):
        self.model, self.texts_at_a_time, self.dtype, self.seed = model, texts_at_a_time, dtype, seed

    def add_gradients(self, loss: BatchLoss, columns: Sequence[Sequence[str]], labels: Any, step: int) -> Step:
        """Adds those of a batch; `columns` are its queries, its documents, and any more documents."""
        texts = [text for column in columns for text in column]
        groups = list(self._groups(texts))
        with torch.no_grad():
            found = [self._embed(features, step, place) for place, (_, features) in enumerate(groups)]
        whole = torch.cat(found)[_back([one for places, _ in groups for one in places])]
        reps = [column.detach().clone().requires_grad_() for column in whole.split([len(column) for column in columns])]
        value = loss.calculate_loss([[column] for column in reps], labels, with_backward=True)
        gradients = torch.cat([column.grad for column in reps])
        for place, (places, features) in enumerate(groups):
            (self._embed(features, step, place) * gradients[places]).sum().backward()
            interrupts.raise_if_requested()
        masks = [features["attention_mask"] for _, features in groups]
        num_tokens = sum(int(mask.sum()) for mask in masks)
        num_cut = sum(int((mask.sum(1) >= self.model.max_seq_length).sum()) for mask in masks)
        return Step(float(value), num_tokens, num_cut, len(texts))

    def encode(self, texts: Sequence[str], role: Role = "document") -> np.ndarray:
        """(n, D) fp32 of any number of texts, at length 1, without dropout; queries and documents alike."""
        if not texts:
            return np.empty((0, self.model.get_embedding_dimension()), np.float32)
        places, found = [], []
        with torch.no_grad(), heldout.evaluating(self.model):
            for group, features in self._groups(texts):
                places += group
                found.append(functional.normalize(self._embed(features, 0, 0), dim=1).cpu())
                interrupts.raise_if_requested()
        return torch.cat(found)[_back(places)].numpy()

    def _groups(self, texts: Sequence[str]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for first in range(0, len(order), self.texts_at_a_time):
            places = order[first : first + self.texts_at_a_time]
            features = self.model.preprocess([texts[place] for place in places])
            tensors = {name: value.to(self.model.device) for name, value in features.items() if torch.is_tensor(value)}
            yield places, features | tensors

    def _embed(self, features: dict[str, Any], step: int, place: int) -> Tensor:
        """(n, D) in fp32. The modules change the dict that they are given."""
        if self.model.training:
            torch.manual_seed((self.seed * 1_000_003 + step) * 1_009 + place)
        with autocast(self.model.device.type, self.dtype):
            return self.model(dict(features))["sentence_embedding"].float()


def _back(order: Sequence[int]) -> Tensor:
    """The places at which what was put in `order` is found again."""
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return back
