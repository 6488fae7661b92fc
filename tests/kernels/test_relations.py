"""Relations of tokens against the formula, a token, a head and a relation at a time."""

import math

import pytest
import torch

from nsllm_lite.kernels.relations import add_relation_gradients, relation_divergences, uniform_divergences
from nsllm_lite.kernels.varlen_attention import Layout

LENGTHS, HEADS = (5, 1, 7), 4
BOUNDS = (0, 5, 6, 13)


@pytest.fixture
def given():
    """(teacher, student, layout) of three documents; widths 12 and 8, four heads of 3 and of 2."""
    torch.manual_seed(0)
    layout = Layout(BOUNDS, torch.tensor(BOUNDS, dtype=torch.int32))
    return 1.5 * torch.randn(13, 3, 12), torch.randn(13, 3, 8), layout


def shares(x, relation, head, token):
    """softmax over the document's tokens of x[token] . x / sqrt(d)."""
    width = x.shape[2] // HEADS
    part = x[:, relation, head * width : (head + 1) * width]
    return torch.softmax(torch.stack([part[token] @ other / math.sqrt(width) for other in part]), 0)


def by_hand(teacher, student):
    """Of one document."""
    total = torch.zeros(())
    for relation in range(3):
        for head in range(HEADS):
            for token in range(len(teacher)):
                wanted, found = (shares(x, relation, head, token) for x in (teacher, student))
                total = total + (wanted * (wanted / found).log()).sum()
    return total / (3 * HEADS)


def test_divergences_are_those_of_the_formula(given):
    teacher, student, layout = given
    found = torch.stack(list(relation_divergences(teacher, student, layout, HEADS)))
    wanted = torch.stack(list(map(by_hand, teacher.split(LENGTHS), student.split(LENGTHS))))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert found[1] == 0, "a token alone"
    assert not torch.stack(list(relation_divergences(teacher, teacher, layout, HEADS))).any()
    even = torch.stack(list(uniform_divergences(teacher, layout, HEADS)))
    flat = [by_hand(document, torch.zeros(len(document), 3, 8)) for document in teacher.split(LENGTHS)]
    torch.testing.assert_close(even, torch.stack(flat), rtol=1e-4, atol=1e-6)


def test_gradients_of_a_document_at_a_time_are_those_of_all(given):
    teacher, student, layout = given
    made = torch.nn.Parameter(student.clone())
    loss = add_relation_gradients(teacher, made * 1.5, layout, HEADS, 0.25)
    plain = torch.nn.Parameter(student.clone())
    whole = 0.25 * sum(map(by_hand, teacher.split(LENGTHS), (plain * 1.5).split(LENGTHS)))
    whole.backward()
    torch.testing.assert_close(loss, whole.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(made.grad, plain.grad, rtol=1e-4, atol=1e-6)
