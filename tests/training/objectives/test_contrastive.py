import math
import sys

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import NTXentLoss
from trainings import METHODS, Fed, contrast, same, tensors

from facemae import config
from facemae.compute.distributed import ALONE
from facemae.compute.seeding import Noise
from facemae.core.errors import UsageError
from facemae.data.faces.cache import Faces
from facemae.models.build import build_encoder, build_mae
from facemae.training import trainer
from facemae.training.objective import LOSS
from facemae.training.objectives.augment import apply_crops, random_crops, self_supervised_view
from facemae.training.objectives.contrastive import info_nce
from facemae.training.optimizer import adamw
from facemae.training.trainer import Job

SIZE, BATCH = 32, 4
AVERAGING = [name for name, method in METHODS.items() if method.averages]
LUMA = torch.tensor([0.299, 0.587, 0.114])


@pytest.fixture
def faces(orl_images):
    return torch.from_numpy(orl_images)


@pytest.fixture
def coloured():
    return torch.randint(
        256, (40, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture
def views(experiment):
    def make(**changes):
        return experiment.defaults.pretrain.views.model_copy(update=changes)

    return make


@pytest.fixture
def make(experiment, faces, compute):
    """Return a function that makes the objective of a rival."""

    def build(method, model=(), batch=BATCH, **changes):
        views = {"hidden": 8, "projection": 6, "momentum": 0.75}
        settings = {"method": method, "views": views, "batch_size": batch}
        settings = config.merge(config.merge(experiment.defaults.pretrain.model_dump(), settings), changes)
        settings = config.Pretrain.model_validate(settings)
        torch.manual_seed(0)
        encoder = build_encoder(experiment.defaults.model.model_copy(update=dict(model)), SIZE)
        made = METHODS[method](METHODS[method].build(encoder, settings, seed=0), settings, compute, 0)
        made.feed = Fed(faces, batch)
        return made

    return build


def trained(made, steps, rate=3e-3):
    """Take some steps and return the losses."""
    network, losses = made.network, []
    optimizer = adamw(network.train(), made.settings.model_copy(update={"learning_rate": rate}))
    for step in range(steps):
        loss = made.loss(step, slice(0, made.settings.batch_size))[LOSS]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        made.follow(ALONE)
        losses.append(float(loss.detach()))
    return losses


# --- views ---


@pytest.mark.parametrize(("first", "last"), [(0, 1), (5, 6), (3, 20), (16, 33), (1, 40)])
def test_a_view_is_its_own_faces_alone(coloured, views, first, last):
    settings = views(grey=0.5)
    whole = self_supervised_view(coloured, settings, Noise(range(40), 0, "view a"))
    part = self_supervised_view(coloured[first:last], settings, Noise(range(first, last), 0, "view a"))
    assert torch.equal(whole[first:last], part)
    again = self_supervised_view(coloured, settings, Noise(range(40), 0, "view a"))
    assert torch.equal(whole, again)
    other = self_supervised_view(coloured, settings, Noise(range(40), 0, "view b"))
    assert (whole != other).flatten(1).any(dim=1).all()
    assert whole.dtype == torch.float32
    assert whole.abs().max() <= 1


def test_a_view_without_light_and_grey_is_the_crop(coloured, views):
    plain = self_supervised_view(coloured, views(brightness=0.0, grey=0.0), Noise(range(40), "x"))
    crops = random_crops(Noise(range(40), "x"), views().crop_min)
    # With no change of contrast the mean is taken off and put back: rounding remains.
    torch.testing.assert_close(plain, apply_crops(coloured, crops), rtol=0, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_that_share_of_the_views_is_grey(views, share):
    coloured = torch.randint(256, (400, 8, 8, 3), dtype=torch.uint8)
    noise = (Noise(range(400), "grey") for _ in range(2))
    plain = self_supervised_view(coloured, views(grey=0.0), next(noise))
    made = self_supervised_view(coloured, views(grey=share), next(noise))
    grey = (made == made[:, :1]).flatten(1).all(dim=1)
    assert abs(float(grey.float().mean()) - share) < 0.08
    luma = torch.einsum("bchw,c->bhw", plain, LUMA)
    torch.testing.assert_close(made[grey][:, 0], luma[grey], rtol=0, atol=1e-6)
    assert torch.equal(made[~grey], plain[~grey])


# --- losses ---


def nt_xent(first, second, temperature):
    """The loss of SimCLR, equation 1 and algorithm 1, term by term."""
    views = [*F.normalize(first, dim=1), *F.normalize(second, dim=1)]
    count, total = len(first), 0.0
    for i, anchor in enumerate(views):
        j = (i + count) % (2 * count)
        terms = [math.exp(float(anchor @ each) / temperature) for each in views]
        total -= math.log(terms[j] / (sum(terms) - terms[i]))
    return total / (2 * count)


def test_simclr_is_the_papers_loss(make):
    made = make("simclr")
    own = torch.randn(6, 5, generator=torch.manual_seed(1))
    found = float(made.compare(own, own))
    temperature = made.settings.views.temperature
    assert found == pytest.approx(nt_xent(own[:3], own[3:], temperature), rel=1e-5)
    other = NTXentLoss(temperature=temperature)(own, torch.arange(3).repeat(2))
    assert found == pytest.approx(float(other), rel=1e-5)


def test_moco_looks_for_the_other_views_key_in_both_directions(make):
    made = make("moco")
    draw = torch.manual_seed(1)
    own, averages = (torch.randn(6, 5, generator=draw) for _ in range(2))
    temperature, expected = made.settings.views.temperature, []
    for queries, keys in ((own[:3], averages[3:]), (own[3:], averages[:3])):
        cosines = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T
        for i, row in enumerate(cosines.tolist()):
            terms = [math.exp(each / temperature) for each in row]
            expected.append(-math.log(terms[i] / sum(terms)))
    found = float(made.compare(own, averages))
    assert found == pytest.approx(sum(expected) / 6, rel=1e-5)


def test_info_nce_of_what_is_all_alike_is_chance():
    assert float(info_nce(torch.ones(8, 3), torch.ones(8, 3), 0.1)) == pytest.approx(math.log(8))
    assert float(info_nce(torch.eye(8), torch.eye(8), 0.01)) < 1e-6


def test_dino_is_the_papers_loss_and_its_centre_follows(make):
    made = make("dino")
    draw = torch.manual_seed(1)
    student, teacher = (torch.randn(8, 6, generator=draw) for _ in range(2))
    views = made.settings.views
    centre = torch.linspace(-1, 1, 6)
    made.criterion.center.data = centre.view(1, 1, 6).clone()
    target = ((teacher - centre) / views.teacher_temperature).softmax(dim=1)
    logs = (student / views.temperature).log_softmax(dim=1)
    crossed = -(target[:4] * logs[4:]).sum(dim=1) - (target[4:] * logs[:4]).sum(dim=1)
    found = made.compare(student, teacher)
    assert float(found) == pytest.approx(float(crossed.mean() / 2), rel=1e-5)
    torch.testing.assert_close(made.criterion.center.flatten(), 0.9 * centre + 0.1 * teacher.mean(dim=0))


# --- what is trained ---


@pytest.mark.parametrize("encoder", ["vit", "cnn", "mlp"])
@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_reaches_every_weight_and_no_averaged_one(make, method, encoder):
    network = {"network": "resnet10t"} if encoder == "cnn" else {}
    made = make(method, {"encoder": encoder, "class_token": encoder == "vit", **network})
    with torch.no_grad():  # what starts at zero would hide what flows through it
        for weight in made.model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    made.follow(ALONE)
    losses = made.loss(0, slice(0, BATCH))
    assert losses.keys() == {LOSS}
    assert losses[LOSS].dtype == torch.float32
    losses[LOSS].backward()
    weights = {name: each for name, each in made.model.named_parameters() if each.requires_grad}
    assert [name for name, each in weights.items() if each.grad is None or not each.grad.any()] == []
    assert all(each.grad.isfinite().all() for each in weights.values())
    if made.momentum is not None:
        assert not any(each.requires_grad for each in made.momentum.parameters())


@pytest.mark.parametrize("method", AVERAGING)
def test_the_averaged_branch_moves_by_its_share(make, method):
    made = make(method)
    own, averages = made.model.branch, made.momentum.module
    assert same(tensors(own), tensors(averages))
    before = tensors(averages)
    with torch.no_grad():
        for weight in own.parameters():
            weight.add_(1.0)
    made.follow(ALONE)
    for name, weight in own.named_parameters():
        moved = averages.get_parameter(name) - before[name]
        torch.testing.assert_close(moved, torch.full_like(moved, 0.25), rtol=0, atol=1e-5)
        assert torch.equal(weight, before[name] + 1)
    assert made.network["momentum"] is made.momentum


def test_only_simclr_compares_with_itself_alone(make):
    assert [name for name in METHODS if make(name).momentum is None] == ["simclr"]


@pytest.mark.parametrize("method", METHODS)
def test_the_encoder_starts_as_a_masked_autoencoders(experiment, make, method):
    settings = experiment.defaults.pretrain
    torch.manual_seed(0)
    mae = build_mae(experiment.defaults.model, settings, SIZE)
    assert same(tensors(make(method).model.encoder), tensors(mae.encoder))
    torch.manual_seed(99)  # the heads' start hangs on the run's seed alone
    again = make(method)
    assert same(tensors(make(method).model), tensors(again.model))
    other = again.build(again.model.encoder, again.settings, seed=1)
    assert not same(tensors(other), tensors(again.model))


EASY = {"hidden": 32, "projection": 16, "crop_min": 0.8, "brightness": 0.1}


@pytest.mark.parametrize("method", ["simclr", "moco"])
def test_the_loss_of_sixteen_faces_falls(make, method):
    losses = trained(make(method, batch=16, views=EASY), 30)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_dinos_student_comes_to_agree_with_a_teacher_that_stands_still(make, monkeypatch):
    made = make("dino", batch=16, views=EASY)
    monkeypatch.setattr(type(made), "after_step", lambda self, world: None)
    trained(made, 20, rate=1e-9)  # its centre comes to where the teacher's outputs are
    made.criterion.center_momentum = 1.0
    losses = trained(made, 30)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_no_global_randomness(make):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    made = make("moco")
    torch.manual_seed(3)
    made.loss(0, slice(0, BATCH))
    made.score(made.model, Faces(made.feed.faces[:5].numpy(), [], []))
    assert torch.equal(torch.get_rng_state(), before)


# --- held-out faces ---


@pytest.mark.parametrize("method", METHODS)
def test_scoring_changes_nothing_and_is_repeatable(make, method):
    made = make(method)
    trained(made, 3)
    network = made.network.eval()
    before, faces = tensors(network), Faces(made.feed.faces[:11].numpy(), [], [])
    first = made.score(made.model, faces)
    assert same(tensors(network), before)
    assert made.score(made.model, faces) == first
    assert math.isfinite(first)


def test_held_out_faces_are_compared_in_whole_batches(make, monkeypatch):
    made = make("simclr")
    sizes, inner = [], type(made)._loss

    def seen(self, model, faces, places, *key):
        sizes.append((len(faces), key))
        return inner(self, model, faces, places, *key)

    monkeypatch.setattr(type(made), "_loss", seen)
    made.network.eval()
    for count, expected in ((2, [2]), (7, [7]), (11, [6, 5])):
        sizes.clear()
        made.score(made.model, Faces(made.feed.faces[:count].numpy(), [], []))
        assert sizes == [(size, ("unseen",)) for size in expected]  # of no seed


# --- interruptions ---


class BoomError(Exception):
    pass


@pytest.mark.parametrize("step", [5, 9])
@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_training_ends_with_the_same_bits(experiment, faces, compute, tmp_path, method, step):
    def boom(losses):
        raise BoomError

    whole = contrast(method, experiment, faces, compute)
    whole.fit(compute, Job("whole", 0, tmp_path / ".whole", {}))
    job = Job("part", 0, tmp_path / ".part", {})
    with pytest.raises(BoomError):
        contrast(method, experiment, faces, compute).at(step, boom).fit(compute, job)
    torch.manual_seed(12345)
    made = contrast(method, experiment, faces, compute)
    made.fit(compute, job, trainer.ALONE)
    assert made.steps == list(range(step // 4 * 4, 10))
    assert same(tensors(made.network), tensors(whole.network))
    names = tensors(whole.network)
    assert any("running_mean" in name for name in names) == (method != "dino")
    assert any("center" in name for name in names) == (method == "dino")


# --- costs, and what is refused ---


@pytest.mark.parametrize("method", METHODS)
def test_the_trial_is_of_two_views_and_can_be_copied(make, compute, method):
    from facemae.training import memory

    made = make(method)
    before = tensors(made.model)
    estimate = memory.measure(made.model, made.trial, compute)
    assert same(tensors(made.model), before)
    assert estimate.flops > 0
    assert estimate.image_bytes > 0


def test_without_lightly_it_is_told_how_to_get_it(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly.models.modules.heads", None)
    with pytest.raises(
        UsageError, match=r"^pretrain\.method: moco takes the package lightly.*run make install"
    ):
        make("moco")


def test_a_method_that_is_none_is_refused(small):
    with pytest.raises(
        UsageError, match=r"runs\.byol\.pretrain\.method: .*'mae', 'simclr', 'moco' or 'dino'"
    ):
        small(runs={"byol": {"pretrain": {"method": "byol"}}})


def test_the_methods_are_those_of_the_configuration():
    assert ("mae", *METHODS) == config.METHODS


@pytest.mark.parametrize("method", config.METHODS)
def test_a_run_is_shaped_by_its_own_methods_settings_alone(small, method):
    shaping = small(runs={"x": {"pretrain": {"method": method}}}).run("x").shaping()["pretrain"]
    assert (shaping["views"] is None) == (method == "mae")
    assert {"mask", "masks", "decoder", "mask_ratio", "crop_min"}.isdisjoint(shaping) == (method != "mae")
