import copy
import math

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from facemae.compute.device import set_fused_attention
from facemae.compute.distributed import ALONE
from facemae.config.masks import MASK_GUIDES
from facemae.masking.mask import hide_highest
from facemae.models.build import build_mae
from facemae.training.objectives.mask_guides import (
    GUIDES,
    attention_received,
    ranking_loss,
)

SIDE, BATCH, HIDDEN = 4, 3, 12
DECAY = 0.75
CNN = {"encoder": "cnn", "network": "convnextv2_atto"}
RESNET = {"encoder": "cnn", "network": "resnet10t"}
MLP = {"encoder": "mlp"}
# What each guide can lead, as the configuration allows it.
LED = [
    ("attention", {}),
    ("attention", {"class_token": True}),
    ("predicted_loss", {}),
    ("predicted_loss", {"class_token": True}),
    ("predicted_loss", CNN),
    ("predicted_loss", RESNET),
    ("position_loss", MLP),
]


class Averaging:
    """Two processes, of which the other one has seen what is given here."""

    def __init__(self, *others):
        self.others = others

    def average(self, tensors):
        for mine, other in zip(tensors, self.others, strict=True):
            mine.add_(other).div_(2)


@pytest.fixture
def build(small):
    """Return a function that makes an autoencoder and a guide, always with the same weights."""

    def make(name, model=None, **pretrain):
        defaults = {"model": model or {}, "pretrain": {"teacher_decay": DECAY, **pretrain}}
        if (model or {}).get("encoder") == "mlp":
            defaults["pretrain"]["decoder"] = "mlp"
        run = small(defaults=defaults).run("random")
        torch.manual_seed(0)
        mae = build_mae(run.model, run.pretrain, 32)
        return mae, GUIDES[name](mae, run.pretrain)

    return make


@pytest.fixture
def images():
    return torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def mask():
    return hide_highest(torch.rand(BATCH, SIDE**2, generator=torch.Generator().manual_seed(2)), HIDDEN)


@pytest.fixture
def errors():
    return torch.rand(BATCH, HIDDEN, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def strict():
    """Let nothing but deterministic algorithms run; conftest.py undoes it."""
    torch.use_deterministic_algorithms(True)


def changed(network):
    """Move all weights and running statistics, as a step of an optimiser might."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return network


def step(mae, guide, images, mask, errors):
    """Take a step of training the guide, as pretraining does."""
    optimizer = torch.optim.SGD(
        [each for each in guide.parameters() if each.requires_grad] or [torch.zeros(1)]
    )
    prediction = mae(images, mask)
    guide.observe(prediction.ids, errors)
    loss = guide.loss(images, mask, prediction, errors)
    if loss is not None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    guide.update(mae, ALONE)
    return loss


def test_every_strategy_with_a_guide_finds_it():
    assert set(MASK_GUIDES.values()) == GUIDES.keys()


@pytest.mark.parametrize(("name", "model"), LED)
class TestEveryGuide:
    def test_signal_is_a_number_per_patch(self, build, images, strict, name, model):
        _, guide = build(name, model)
        signal = guide.signal(images)
        assert signal.shape == (BATCH, SIDE**2)
        assert signal.dtype == torch.float32
        assert not signal.requires_grad
        assert signal.isfinite().all()

    def test_signal_of_an_image_is_its_own(self, build, images, mask, errors, name, model):
        mae, guide = build(name, model)
        guide.train()  # as while training: nothing may be normalised over the batch
        step(mae, guide, images, mask, errors)
        torch.testing.assert_close(guide.signal(images)[1:2], guide.signal(images[1:2]), rtol=1e-4, atol=1e-5)

    def test_signal_leaves_no_trace(self, build, images, name, model):
        _, guide = build(name, model)
        guide.train()
        before = copy.deepcopy(guide.state_dict())
        guide.signal(images)
        assert all(torch.equal(value, before[key]) for key, value in guide.state_dict().items())

    def test_training_repeats_exactly(self, build, images, mask, errors, strict, name, model):
        def trained():
            mae, guide = build(name, model)
            for _ in range(2):
                step(mae, guide, images, mask, errors)
            return guide.state_dict() | {"signal": guide.signal(images)}

        one, other = trained(), trained()
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)

    def test_gradient_stays_within_the_guide(self, build, images, mask, errors, name, model):
        mae, guide = build(name, model)
        trained = [each for each in guide.parameters() if each.requires_grad]
        loss = guide.loss(images, mask, mae(images, mask), errors)
        if loss is None:
            assert not trained
            return
        assert loss.shape == ()
        loss.backward()
        assert all(weight.grad is None for weight in mae.parameters())
        assert trained
        assert all(weight.grad is not None for weight in trained)
        assert all(weight.grad is None for weight in guide.parameters() if not weight.requires_grad)

    def test_state_survives_a_file(self, build, images, mask, errors, name, model):
        mae, guide = build(name, model)
        for _ in range(2):
            step(changed(mae), guide, images, mask, errors)
        file = safetensors.torch.save(guide.state_dict())
        _, other = build(name, model)
        assert not torch.equal(other.signal(images), guide.signal(images)), "training has changed nothing"
        other.load_state_dict(safetensors.torch.load(file))
        step(mae, guide, images, mask, errors)
        step(mae, other, images, mask, errors)
        assert torch.equal(other.signal(images), guide.signal(images))

    def test_half_precision_gives_whole_numbers_back(self, build, images, mask, errors, strict, name, model):
        mae, guide = build(name, model)
        step(mae, guide, images, mask, errors)
        precise = guide.signal(images)
        with torch.autocast("cpu", torch.bfloat16):
            signal = guide.signal(images)
            loss = guide.loss(images, mask, mae(images, mask), errors)
        assert signal.dtype == torch.float32
        torch.testing.assert_close(signal, precise, rtol=0.05, atol=0.05)
        if loss is not None:
            assert loss.dtype == torch.float32
            # What autocast rounded for the signal must not be what the loss is taken on.
            loss.backward()
            assert all(each.grad is not None for each in guide.parameters() if each.requires_grad)


class TestAttention:
    @pytest.mark.parametrize("class_token", [False, True])
    @pytest.mark.parametrize("fused", [False, True])
    def test_is_what_timm_computes(self, build, images, class_token, fused):
        mae, guide = build("attention", {"class_token": class_token})
        seen = []
        last = mae.encoder.trunk.blocks[-1].attn
        last.attn_drop.register_forward_hook(lambda layer, inputs, output: seen.append(output))
        set_fused_attention(mae, fused=False)
        with torch.no_grad():
            mae.encoder(images)
        weights = seen[0].mean(dim=1)  # (B, from, to)
        expected = weights[:, 0, 1:] if class_token else weights.mean(dim=1)
        set_fused_attention(guide, fused)
        torch.testing.assert_close(guide.signal(images), expected, rtol=1e-5, atol=1e-7)

    def test_by_hand(self):
        """Two heads of one dimension; queries and keys are the tokens themselves."""

        class Layer(torch.nn.Module):
            num_heads, scale = 2, 1.0
            q_norm = k_norm = torch.nn.Identity()

            def qkv(self, tokens):
                return torch.cat([tokens, tokens, torch.full_like(tokens, math.nan)], dim=-1)

        class Block(torch.nn.Module):
            norm1, attn = torch.nn.Identity(), Layer()

        tokens = torch.tensor([[[1.0, 0.0], [2.0, 1.0], [3.0, 5.0]]])
        first = torch.tensor([1.0, 2.0, 3.0]).softmax(0)  # head 0 of the first token: 1 * (1, 2, 3)
        second = torch.full((3,), 1 / 3)  # head 1: 0 * (0, 1, 5)
        torch.testing.assert_close(attention_received(Block(), tokens, 1)[0], ((first + second) / 2)[1:])
        all_queries = torch.stack(
            [torch.outer(head, head).softmax(dim=1).mean(dim=0) for head in tokens[0].T]
        ).mean(dim=0)
        torch.testing.assert_close(attention_received(Block(), tokens, 0)[0], all_queries)

    def test_without_a_class_token_shares_sum_to_one(self, build, images):
        _, guide = build("attention")
        torch.testing.assert_close(guide.signal(images).sum(dim=1), torch.ones(BATCH))

    def test_teacher_is_the_running_mean(self, build, images):
        mae, guide = build("attention")
        guide.update(mae, ALONE)
        first = copy.deepcopy(mae.encoder.state_dict())
        guide.update(changed(mae), ALONE)
        now, averaged = mae.encoder.state_dict(), guide.teacher.module.state_dict()
        for key, value in averaged.items():
            torch.testing.assert_close(value, DECAY * first[key] + (1 - DECAY) * now[key])
        assert not torch.equal(averaged["trunk.norm.weight"], now["trunk.norm.weight"])


class TestPredictedLoss:
    def test_teacher_is_the_running_mean_of_encoder_and_predictor(self, build):
        mae, guide = build("predicted_loss", RESNET)
        guide.update(mae, ALONE)
        first = copy.deepcopy(guide.predictor.state_dict())
        changed(guide.predictor)
        guide.update(changed(mae), ALONE)
        encoder, predictor = guide.teacher.module
        for key, value in predictor.state_dict().items():
            mean = DECAY * first[key] + (1 - DECAY) * guide.predictor.state_dict()[key]
            torch.testing.assert_close(value, mean)
        statistics = "trunk.bn1.running_mean"  # are followed at once, as they are running means already
        assert torch.equal(encoder.state_dict()[statistics], mae.encoder.state_dict()[statistics])

    def test_learns_a_planted_order(self, build, images):
        """Patches further down are harder; with errors of all patches, as under loss_on all."""
        mae, guide = build("predicted_loss")
        optimizer = torch.optim.Adam(guide.predictor.parameters(), lr=0.01)
        losses = []
        for number in range(80):
            lots = torch.rand(BATCH, SIDE**2, generator=torch.Generator().manual_seed(number))
            mask = hide_highest(lots, HIDDEN)
            prediction = mae(images, mask, mae.all_ids(BATCH, images.device))
            losses.append(guide.loss(images, mask, prediction, prediction.ids.float()))
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
            guide.update(mae, ALONE)
        assert losses[-1] < 0.2 * losses[0]
        places = guide.signal(images).argsort(dim=1).argsort(dim=1).float()
        planted = torch.arange(SIDE**2).float()
        for found in places:
            assert torch.corrcoef(torch.stack([found, planted]))[0, 1] > 0.9

    def test_sees_where_the_visible_patches_are(self, build, images, mask, errors):
        mae, guide = build("predicted_loss")
        prediction = mae(images, mask)
        other = hide_highest(-mask.hidden.float(), HIDDEN)
        one, two = (guide.loss(images, each, prediction, errors) for each in (mask, other))
        assert not torch.equal(one, two)


class TestRankingLoss:
    def test_by_hand(self):
        predicted, errors = torch.tensor([[2.0, 0.5, 1.0]]), torch.tensor([[3.0, 1.0, 2.0]])
        gaps = torch.tensor([2.0 - 0.5, 2.0 - 1.0, 1.0 - 0.5])  # harder minus easier
        expected = F.binary_cross_entropy_with_logits(gaps, torch.ones(3))
        torch.testing.assert_close(ranking_loss(predicted, errors), expected)

    def test_ignores_how_great_errors_are(self, errors):
        predicted = torch.randn(BATCH, HIDDEN, generator=torch.Generator().manual_seed(5))
        assert torch.equal(ranking_loss(predicted, errors), ranking_loss(predicted, (9 * errors).exp()))
        assert ranking_loss(errors, errors) < ranking_loss(-errors, errors)

    def test_equal_errors_teach_nothing(self):
        predicted = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], requires_grad=True)
        loss = ranking_loss(predicted, torch.ones(2, 3))
        loss.backward()
        assert loss == 0
        assert (predicted.grad == 0).all()

    def test_one_patch_has_no_pair(self):
        assert ranking_loss(torch.ones(2, 1), torch.ones(2, 1)) == 0

    def test_parts_of_a_batch_average_to_the_whole(self, errors):
        predicted = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(6))
        tied = torch.stack([errors[0], errors[1].round()])
        parts = [ranking_loss(predicted[i : i + 1], tied[i : i + 1]) for i in range(2)]
        torch.testing.assert_close(sum(parts) / 2, ranking_loss(predicted, tied))


class TestPositionLoss:
    def test_by_hand(self, build, images):
        mae, guide = build("position_loss")
        assert (guide.signal(images) == 0).all()
        guide.observe(torch.tensor([[0, 1]]), torch.tensor([[1.0, 2.0]]))
        guide.observe(torch.tensor([[1, 2]]), torch.tensor([[4.0, 8.0]]))
        assert (guide.signal(images) == 0).all(), "what was observed counts after the step"
        guide.update(mae, ALONE)
        torch.testing.assert_close(guide.signal(images)[1, :4], torch.tensor([1.0, 3.0, 8.0, 0.0]))
        guide.observe(torch.tensor([[1, 3]]), torch.tensor([[5.0, 7.0]]))
        guide.update(mae, ALONE)
        aged = (DECAY * (2 + 4) + 5) / (DECAY * 2 + 1)
        torch.testing.assert_close(guide.signal(images)[0, :4], torch.tensor([1.0, aged, 8.0, 7.0]))

    def test_parts_of_a_batch_are_one_batch(self, build, images, mask, errors):
        (mae, whole), (_, parts) = build("position_loss"), build("position_loss")
        whole.observe(mask.hidden_ids, errors)
        for place in range(BATCH):
            parts.observe(mask.hidden_ids[place : place + 1], errors[place : place + 1])
        for guide in (whole, parts):
            guide.update(mae, ALONE)
        torch.testing.assert_close(whole.signal(images), parts.signal(images))

    def test_processes_share_what_they_saw(self, build, images):
        mae, guide = build("position_loss")
        guide.observe(torch.tensor([[0, 1, 1]]), torch.tensor([[1.0, 2.0, 6.0]]))
        errors, counts = torch.zeros(2, SIDE**2)
        errors[1], counts[1], errors[2], counts[2] = 1.0, 1.0, 5.0, 1.0
        guide.update(mae, Averaging(errors, counts))
        torch.testing.assert_close(guide.signal(images)[0, :4], torch.tensor([1.0, 3.0, 5.0, 0.0]))
