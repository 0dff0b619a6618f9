import math

import torch

from facemae.training.objectives.distillation import COSINE, RELATIONS, TeacherLoss, relations, standardised


def test_the_loss_is_what_it_is_by_hand():
    found = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-2.0, 0.0]])
    wanted = torch.tensor([[1.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
    error = (0 + 1 + 0 + 1 + 1 + 0) / 6
    turned = 1 - (1 / math.sqrt(2) + 1 + 1) / 3
    ours = [math.sqrt(5), 3.0, math.sqrt(8)]  # of the pairs 0-1, 0-2, 1-2
    theirs = [1.0, math.sqrt(5), math.sqrt(2)]
    ours, theirs = ([each * 3 / sum(side) for each in side] for side in (ours, theirs))
    # Each pair counts twice, each of the three faces once with itself; all differences are below Huber's 1.
    apart = 2 * sum((a - b) ** 2 / 2 for a, b in zip(ours, theirs, strict=True)) / 9
    loss = TeacherLoss()(found, wanted)
    torch.testing.assert_close(loss, torch.tensor(error + COSINE * turned + RELATIONS * apart))


def test_its_own_embeddings_cost_nothing_and_have_no_gradient():
    targets = standardised(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    found = targets.clone().requires_grad_()
    loss = TeacherLoss()(found, targets)
    loss.backward()
    assert loss.item() < 1e-6
    assert found.grad.abs().max() < 1e-3


def test_gradients_are_those_of_the_loss():
    draw = torch.Generator().manual_seed(0)
    found, wanted = (torch.randn(4, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda each: TeacherLoss()(each, wanted), found.requires_grad_())


def test_faces_that_are_embedded_alike_have_a_finite_gradient():
    found = torch.ones(3, 2, requires_grad=True)
    TeacherLoss()(found, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])).backward()
    assert found.grad.isfinite().all()


def test_relations_know_no_scale_and_no_place():
    draw = torch.Generator().manual_seed(0)
    found, wanted = (torch.randn(5, 3, generator=draw) for _ in range(2))
    torch.testing.assert_close(relations(7 * found + 3, wanted), relations(found, wanted))


def test_targets_have_no_mean_and_one_scale_for_all_dimensions():
    vectors = torch.tensor([[1.0, 10.0], [3.0, 16.0]])
    torch.testing.assert_close(standardised(vectors), torch.tensor([[-1.0, -3.0], [1.0, 3.0]]) / math.sqrt(5))
