"""The losses of embeddings against plain formulas, and gradients in small groups against those of one piece."""

import math

import pytest
import torch
from sentence_transformers.sentence_transformer import losses
from torch.nn import functional

from nsllm_lite.recipe.embed import DIRECTIONS
from nsllm_lite.train.embed_loss import CachedEmbedder, SimilarityLoss, dimensions_of, make_loss
from nsllm_lite.train.embed_model import open_to_train
from tests.train.papers import make_encoder, paper

TEMPERATURE = 0.1
COLUMNS = [
    [paper(n).title for n in range(5)],
    [paper(n).abstract for n in range(5)],
    [paper(n).abstract for n in range(10, 15)],
]


class Recipe:
    """What `make_loss` reads of one."""

    def __init__(self, dimensions=(), directions=DIRECTIONS, teacher=None):
        self.temperature, self.directions, self.teacher = TEMPERATURE, list(directions), teacher
        self.dimensions = list(dimensions)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def contrast(queries, documents, more=()):
    """-log of exp(cos(q, d)/t) over the sum of what the four directions name, each pair by hand."""
    q, d = functional.normalize(queries, dim=1), functional.normalize(documents, dim=1)
    n = [functional.normalize(one, dim=1) for one in more]
    found = []
    for i in range(len(q)):
        terms = [q[i] @ each for each in d] + [q[i] @ each for column in n for each in column]
        terms += [q[i] @ q[j] for j in range(len(q)) if j != i]
        terms += [q[j] @ d[i] for j in range(len(q))]
        terms += [d[j] @ d[i] for j in range(len(q)) if j != i]
        terms += [column[j] @ d[i] for column in n for j in range(len(q)) if j != i]
        found.append(torch.logsumexp(torch.stack(terms) / TEMPERATURE, 0) - q[i] @ d[i] / TEMPERATURE)
    return torch.stack(found).mean()


def drawn(*sizes):
    torch.manual_seed(0)
    return [torch.randn(6, size, dtype=torch.float64, requires_grad=True) for size in sizes]


def of_library(reps, recipe, model):
    leaves = [rep.detach().clone().requires_grad_() for rep in reps]
    value = make_loss(recipe, model).calculate_loss([[leaf] for leaf in leaves], None, with_backward=True)
    return value, [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("columns", [2, 4])
def test_the_loss_of_a_batch_is_the_four_term_formula(encoder, columns):
    reps = drawn(*[16] * columns)
    plain = contrast(reps[0], reps[1], reps[2:])
    plain.backward()
    value, gradients = of_library(reps, Recipe(), open_to_train(encoder, 64, []))
    assert value.item() == pytest.approx(plain.item(), abs=1e-10)
    for rep, gradient in zip(reps, gradients, strict=True):
        torch.testing.assert_close(gradient, rep.grad)


def test_with_one_direction_it_is_the_usual_cross_entropy(encoder):
    one, other = drawn(16, 16)
    cosines = functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T / TEMPERATURE
    value, _ = of_library([one, other], Recipe(directions=["query_to_doc"]), open_to_train(encoder, 64, []))
    assert float(value) == pytest.approx(float(functional.cross_entropy(cosines, torch.arange(6))))


def test_dimensions_add_the_loss_of_the_first_numbers(encoder):
    reps = drawn(32, 32)
    plain = sum(contrast(reps[0][:, :size], reps[1][:, :size]) for size in (32, 16, 4))
    plain.backward()
    recipe, model = Recipe(dimensions=[4, 16]), open_to_train(encoder, 64, [])
    assert dimensions_of(recipe, model.get_embedding_dimension()) == [32, 16, 4]
    value, gradients = of_library(reps, recipe, model)
    assert float(value) == pytest.approx(float(plain), abs=1e-6)
    torch.testing.assert_close(gradients[1], reps[1].grad, atol=1e-6, rtol=1e-5)


def test_similarities_of_a_teacher_by_hand():
    student, documents = drawn(8, 8)
    known, others = drawn(5, 5)
    loss = SimilarityLoss(TEMPERATURE)
    value = loss.calculate_loss([[student], [documents]], [known.detach(), others.detach()])

    def rows(one, other):
        cosines = functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T
        return functional.softmax(cosines / TEMPERATURE, 1).flatten().tolist()

    told, own = rows(known.float(), others.float()), rows(student, documents)
    by_hand = sum(t * math.log(t / o) for t, o in zip(told, own, strict=True))
    assert float(value) == pytest.approx(by_hand / 6, rel=1e-5)
    same = loss.calculate_loss([[student.float()], [documents.float()]], [student.float(), documents.float()])
    assert float(same) == pytest.approx(0, abs=1e-6)


def gradients_of(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dimensions", [[], [8]])
def test_gradients_in_small_groups_are_those_of_one_piece(encoder, dimensions):
    """Also those that sentence-transformers' own loss gives from the texts."""
    recipe, found = Recipe(dimensions), []
    for size in (15, 4, 1):
        model = open_to_train(encoder, 64, [])
        step = CachedEmbedder(model, size, "float32", 0).add_gradients(make_loss(recipe, model), COLUMNS, None, 0)
        found.append((step, gradients_of(model)))
    model = open_to_train(encoder, 64, [])
    loss = losses.MultipleNegativesRankingLoss(
        model, scale=1 / TEMPERATURE, directions=DIRECTIONS, partition_mode="joint"
    )  # fmt: skip
    loss = losses.MatryoshkaLoss(model, loss, [32, 8]) if dimensions else loss
    value = loss([model.preprocess(column) for column in COLUMNS], None)
    value.backward()
    for step, gradients in found:
        assert step.loss == pytest.approx(float(value), rel=1e-5)
        assert step.num_tokens == found[0][0].num_tokens > 150
        assert gradients.keys() == gradients_of(model).keys()
        for name, expected in gradients_of(model).items():
            torch.testing.assert_close(gradients[name], expected, atol=2e-6, rtol=1e-3)


def test_dropout_draws_the_same_both_times(tmp_path):
    """Else the gradient would be that of other embeddings than the loss had."""
    model = open_to_train(make_encoder(tmp_path / "e", dropout=0.2), 64, [])
    embedder, texts = CachedEmbedder(model, 4, "float32", 3), [*COLUMNS[0], *COLUMNS[1]]
    loss = make_loss(Recipe(), model)
    step = embedder.add_gradients(loss, COLUMNS[:2], None, 7)
    cached = gradients_of(model)
    model.zero_grad()
    whole = torch.empty(10, 32)
    groups = list(embedder._groups(texts))
    parts = [(places, embedder._embed(features, 7, number)) for number, (places, features) in enumerate(groups)]
    order = [place for places, _ in parts for place in places]
    whole = torch.cat([part for _, part in parts])[torch.tensor([order.index(place) for place in range(10)])]
    direct = contrast(whole[:5], whole[5:])
    direct.backward()
    assert step.loss == pytest.approx(float(direct), rel=1e-5)
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(cached[name], gradient, atol=2e-6, rtol=1e-3)
    model.zero_grad()
    assert embedder.add_gradients(loss, COLUMNS[:2], None, 8).loss != step.loss, "another step, another draw"
    assert (embedder.encode(texts) == embedder.encode(texts)).all(), "none where it is scored"
    assert model.training
