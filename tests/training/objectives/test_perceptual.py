import copy
import os

import pytest
import safetensors.torch
import timm
import torch

from facemae.core.errors import IntegrityError, UsageError
from facemae.models.build import build_mae
from facemae.training.objectives.perceptual import (
    OwnFeatures,
    Perceptual,
    TimmFeatures,
    build_perceptual,
    distance,
    load_network,
)

NETWORK, OF_FIXED_SIZE = "test_resnet", "test_vit"  # timm's smallest
DECAY = 0.75
RESNET = {"encoder": "cnn", "network": "resnet10t"}


class Evil:
    """A pickle that would leave a trace if it were trusted."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def run_of(small):
    def make(model=None, **perceptual):
        pretrain = {"teacher_decay": DECAY, "perceptual": {"weight": 1.0, **perceptual}}
        run = small(defaults={"model": model or {}, "pretrain": pretrain}).run("random")
        torch.manual_seed(0)
        return build_mae(run.model, run.pretrain, 32), run.pretrain

    return make


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(2)]


@pytest.fixture
def weights(tmp_path):
    """Return a function that writes a network's weights, with its classifier, and gives the file."""

    def write(name, **made):
        torch.manual_seed(3)
        path = tmp_path / f"{name}.safetensors"
        network = timm.create_model(name, pretrained=False, **made)
        safetensors.torch.save_file(network.state_dict(), path)
        return path

    return write


def trained(mae):
    """Give an autoencoder other weights and running statistics."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in mae.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return mae


class TestDistance:
    def test_by_hand(self):
        features = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]])
        others = torch.tensor([[[6.0, 8.0], [0.0, 2.0]]])  # the same direction; a right angle: 1 + 1
        torch.testing.assert_close(distance(features, others), torch.tensor(1.0), rtol=1e-4, atol=1e-6)

    def test_opposite_directions_are_the_farthest(self):
        features = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(4))
        torch.testing.assert_close(distance(features, -features), torch.tensor(4.0))

    def test_a_place_without_features_has_a_finite_gradient(self):
        features = torch.zeros(1, 1, 4, requires_grad=True)
        distance(features, torch.ones(1, 1, 4)).backward()
        assert features.grad.isfinite().all()
        assert features.grad.abs().max() <= 2000


class TestOwnFeatures:
    @pytest.mark.parametrize("model", [{}, {"class_token": True}, RESNET])
    def test_gradient_flows_into_the_picture_only(self, run_of, pictures, model):
        torch.use_deterministic_algorithms(True)
        mae, settings = run_of(model, network="ema", weights=None)
        loss = build_perceptual(mae, settings)
        picture, images = (each.requires_grad_() for each in pictures)
        value = loss(picture, images)
        value.backward()
        assert value.shape == ()
        assert value > 0
        assert picture.grad.abs().sum() > 0
        assert images.grad is None
        assert all(weight.grad is None for weight in [*loss.parameters(), *mae.parameters()])

    @pytest.mark.parametrize("model", [{}, RESNET])
    def test_the_same_picture_is_at_no_distance(self, run_of, pictures, model):
        mae, settings = run_of(model, network="ema", weights=None)
        assert build_perceptual(mae, settings)(pictures[0], pictures[0].clone()) == 0

    def test_compares_the_tokens_of_the_averaged_encoder(self, run_of, pictures):
        mae, settings = run_of(network="ema", weights=None)
        loss = build_perceptual(mae, settings)
        with torch.no_grad():
            one, other = (
                torch.nn.functional.normalize(mae.encoder(each).tokens, dim=-1) for each in pictures
            )
        expected = (2 - 2 * (one * other).sum(dim=-1)).mean()
        torch.testing.assert_close(loss(*pictures), expected, rtol=1e-4, atol=1e-6)

    def test_compares_every_map_of_a_cnn(self, run_of, pictures):
        mae, _ = run_of(RESNET, network="ema", weights=None)
        features = OwnFeatures(mae, DECAY).eval()(pictures[0])
        assert [each.shape for each in features] == [(2, 64, 64), (2, 16, 128)]

    def test_follows_the_encoder_as_a_running_mean(self, run_of):
        mae, settings = run_of(network="ema", weights=None)
        loss = build_perceptual(mae, settings)
        loss.update(mae)
        first = copy.deepcopy(mae.encoder.state_dict())
        loss.update(trained(mae))
        now = mae.encoder.state_dict()
        for key, value in loss.features.encoder.module.state_dict().items():
            torch.testing.assert_close(value, DECAY * first[key] + (1 - DECAY) * now[key])

    def test_state_survives_a_file(self, run_of, pictures):
        mae, settings = run_of(RESNET, network="ema", weights=None)
        one = build_perceptual(mae, settings)
        other = build_perceptual(mae, settings)
        for _ in range(2):
            one.update(trained(mae))
        assert one(*pictures) != other(*pictures)
        other.load_state_dict(safetensors.torch.load(safetensors.torch.save(one.state_dict())))
        one.update(trained(mae))
        other.update(mae)
        assert torch.equal(one(*pictures), other(*pictures))

    def test_sees_alike_while_the_run_trains(self, run_of, pictures):
        """Neither a neighbour in the batch nor a running mean may change what a picture looks like."""
        mae, settings = run_of(RESNET, network="ema", weights=None)
        loss = build_perceptual(mae, settings)
        whole = loss.train()(*pictures)
        halves = [loss(*(each[place : place + 1] for each in pictures)) for place in range(2)]
        torch.testing.assert_close(sum(halves) / 2, whole)
        assert not any(module.training for module in loss.modules())


class TestTimmFeatures:
    def test_takes_the_weights_of_the_file(self, weights, pictures):
        path = weights(NETWORK)
        whole = timm.create_model(NETWORK, pretrained=False)
        whole.load_state_dict(safetensors.torch.load_file(path))
        mean, std = (torch.tensor(whole.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        maps = whole.eval().forward_intermediates(
            (pictures[0] / 2 + 0.5 - mean) / std, intermediates_only=True
        )
        found = Perceptual(TimmFeatures(load_network(NETWORK, path))).features(pictures[0])
        assert len(found) == len(maps) > 1
        for features, expected in zip(found, maps, strict=True):
            torch.testing.assert_close(features, expected.flatten(2).mT)

    def test_gradient_flows_into_the_picture_only(self, run_of, weights, pictures):
        torch.use_deterministic_algorithms(True)
        path = weights(OF_FIXED_SIZE)
        mae, settings = run_of(network=OF_FIXED_SIZE, weights=str(path))
        loss = build_perceptual(mae, settings)
        before = copy.deepcopy(loss.state_dict())
        picture, images = (each.requires_grad_() for each in pictures)
        value = loss.train()(picture, images)
        value.backward()
        loss.update(trained(mae))
        assert 0 < value < 4
        assert picture.grad.abs().sum() > 0
        assert images.grad is None
        assert all(weight.grad is None for weight in loss.parameters())
        assert all(torch.equal(tensor, before[key]) for key, tensor in loss.state_dict().items())

    def test_resizes_only_for_a_network_that_demands_it(self, weights, pictures):
        fixed = TimmFeatures(load_network(OF_FIXED_SIZE, weights(OF_FIXED_SIZE)))
        free = TimmFeatures(load_network(NETWORK, weights(NETWORK)))
        assert (fixed.side, free.side) == (160, None)
        assert fixed(pictures[0])[0].shape[1] == (160 // 16) ** 2

    def test_pulls_a_picture_towards_the_original(self, weights, pictures):
        loss = Perceptual(TimmFeatures(load_network(NETWORK, weights(NETWORK))))
        picture, images = pictures[0].requires_grad_(), pictures[1]
        optimizer = torch.optim.Adam([picture], lr=0.05)
        values = []
        for _ in range(20):
            values.append(loss(picture, images))
            optimizer.zero_grad()
            values[-1].backward()
            optimizer.step()
        assert values[-1] < 0.5 * values[0]

    def test_half_precision_gives_a_whole_number(self, weights, pictures):
        loss = Perceptual(TimmFeatures(load_network(NETWORK, weights(NETWORK))))
        precise = loss(*pictures)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(*pictures)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, precise, rtol=0.1, atol=0.01)


class TestLoadNetwork:
    @pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
    def test_reads_files_of_torch(self, weights, tmp_path, wrap):
        state = safetensors.torch.load_file(weights(NETWORK))
        state = {key: value for key, value in state.items() if "num_batches" not in key}  # as old files
        torch.save(wrap(state), tmp_path / "weights.pth")
        network = load_network(NETWORK, tmp_path / "weights.pth")
        assert all(torch.equal(network.state_dict()[key], state[key]) for key in state if key[:3] != "fc.")

    def test_takes_files_with_another_classifier_or_none(self, weights):
        for classes in (7, 0):
            load_network(NETWORK, weights(NETWORK, num_classes=classes))

    def test_runs_no_code_from_a_file(self, tmp_path):
        torch.save({"conv1.weight": Evil(tmp_path / "trace")}, tmp_path / "evil.pth")
        with pytest.raises(IntegrityError, match="would run code from it") as error:
            load_network(NETWORK, tmp_path / "evil.pth")
        assert not (tmp_path / "trace").exists()
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
    @pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04" + bytes(100), b"\x80\x02]q\x00."])
    def test_refuses_damaged_files(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IntegrityError, match=name):
            load_network(NETWORK, tmp_path / name)

    def test_refuses_a_missing_file(self, tmp_path):
        with pytest.raises(UsageError, match="No such file"):
            load_network(NETWORK, tmp_path / "none.pth")

    def test_refuses_what_holds_no_weights(self, tmp_path):
        torch.save({"epoch": 3}, tmp_path / "more.pth")
        with pytest.raises(IntegrityError, match="holds no weights by name"):
            load_network(NETWORK, tmp_path / "more.pth")

    def test_refuses_the_weights_of_another_network(self, weights):
        with pytest.raises(IntegrityError, match=r"does not hold the weights of test_resnet \(\d+ differ"):
            load_network(NETWORK, weights(OF_FIXED_SIZE))

    @pytest.mark.parametrize(
        "damage", [lambda state: state.pop("conv1.0.weight"), lambda state: state.update(bn1=torch.ones(1))]
    )
    def test_refuses_names_that_lack_or_do_not_belong(self, weights, damage):
        path = weights(NETWORK)
        state = safetensors.torch.load_file(path)
        damage(state)
        safetensors.torch.save_file(state, path)
        with pytest.raises(IntegrityError, match=r"\(1 differ, the first is (conv1.0.weight|bn1)\)"):
            load_network(NETWORK, path)

    def test_refuses_numbers_that_are_not_finite(self, weights):
        path = weights(NETWORK)
        state = safetensors.torch.load_file(path)
        state["bn1.weight"][0] = torch.nan
        safetensors.torch.save_file(state, path)
        with pytest.raises(IntegrityError, match="not finite"):
            load_network(NETWORK, path)

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("resnet81", "did you mean resnet"),
            ("hf-hub:someone/something", "timm has no network"),
            ("resnet18.nonsense", "Invalid pretrained tag"),
        ],
    )
    def test_refuses_networks_that_timm_has_not(self, tmp_path, name, hint):
        with pytest.raises(UsageError, match=hint):
            load_network(name, tmp_path / "never read")
