import pytest
import torch

from facemae.masking.mask import hide_highest
from facemae.models.build import ENCODERS, build_embedder, build_encoder
from facemae.models.embedder import NARROWED, Frozen, embed, pass_through
from facemae.training.objectives.margin_losses import identity_loss

SIZE = 32


@pytest.fixture(params=[False, True], ids=["patch tokens", "class token"])
def embedder(request, experiment):
    torch.manual_seed(0)
    model = experiment.defaults.model.model_copy(update={"class_token": request.param, "head": "pooled"})
    built = build_embedder(model, SIZE)
    built.train()(torch.randn(64, 3, SIZE, SIZE))  # running statistics other than 0 and 1
    return built.eval()


@pytest.fixture
def images():
    return torch.rand(6, 3, SIZE, SIZE, generator=torch.manual_seed(1)) * 2 - 1


def test_embeddings_are_unit_vectors(embedder, images):
    found = embed(embedder, images)
    assert found.shape == (6, 8)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6))
    assert torch.cdist(found, found).fill_diagonal_(1).min() > 1e-4  # of six images, six embeddings


def test_a_mirror_image_has_the_same_embedding(embedder, images):
    assert torch.equal(embed(embedder, images.flip(-1)), embed(embedder, images))
    assert not torch.allclose(embedder(images.flip(-1)), embedder(images), atol=1e-4)


def test_an_embedding_is_the_sum_of_both_views(embedder, images):
    both = embedder(images) + embedder(images.flip(3))
    torch.testing.assert_close(embed(embedder, images), both / both.norm(dim=1, keepdim=True))


def test_images_of_a_batch_do_not_mix(embedder, images):
    alone = torch.cat([embed(embedder, image[None]) for image in images])
    torch.testing.assert_close(embed(embedder, images), alone, rtol=0, atol=1e-5)


def test_half_precision_ends_in_full(embedder, images):
    with torch.autocast("cpu", torch.bfloat16):
        found = embed(embedder, images)
    assert found.dtype == torch.float32
    assert (found * embed(embedder, images)).sum(dim=1).min() > 0.98


def test_the_head_sees_the_mean_of_the_patch_tokens(embedder, images):
    expected = embedder.head(embedder.encoder(images).tokens.mean(dim=1))
    torch.testing.assert_close(embedder(images), expected, rtol=0, atol=1e-6)


def test_the_head_sees_the_class_token_where_that_is_asked_for(experiment, images):
    changes = {"class_token": True, "pool": "class", "head": "pooled"}
    model = experiment.defaults.model.model_copy(update=changes)
    embedder = build_embedder(model, SIZE).eval()
    expected = embedder.head(embedder.encoder(images).prefix[:, 0])
    torch.testing.assert_close(embedder(images), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_can_be_looked_at_as_it_is(experiment, images, name):
    encoder = build_encoder(experiment.defaults.model.model_copy(update={"encoder": name}), SIZE).eval()
    frozen = Frozen(encoder)
    assert torch.equal(frozen(images), encoder.pool(encoder(images)))
    found = embed(frozen, images)
    assert found.shape == (6, encoder.width)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6))
    assert not found.requires_grad


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("loss", ["cosface", "arcface", "softmax", "adaface", "subcenter"])
def test_every_weight_learns(images, experiment, loss, name):
    settings = experiment.defaults.finetune.model_copy(update={"loss": loss})
    head = "narrow" if loss == "softmax" else "flatten"
    model = experiment.defaults.model.model_copy(
        update={"encoder": name, "class_token": name == "vit", "head": head}
    )
    torch.manual_seed(0)
    embedder = build_embedder(model, SIZE)
    with torch.no_grad():  # what starts at zero would hide what flows through it
        for weight in embedder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    network = torch.nn.ModuleDict({"embedder": embedder, "loss": identity_loss(settings, 3, 8)})
    network["loss"](network["embedder"](images), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    untouched = [
        name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert untouched == []


@pytest.mark.parametrize(
    ("name", "tokens"), [("vit", 16), ("vit with class token", 17), ("cnn", 16), ("mlp", 1)]
)
@pytest.mark.parametrize("head", ["flatten", "narrow"])
def test_a_flat_or_narrow_head_sees_every_token_in_its_place(experiment, images, name, tokens, head):
    changes = {"encoder": name.split()[0], "class_token": "class" in name, "head": head}
    model = experiment.defaults.model.model_copy(update=changes)
    embedder = build_embedder(model, SIZE).eval()
    encoding = embedder.encoder(images)
    expected = torch.cat([encoding.prefix, encoding.tokens], dim=1)
    if head == "flatten":
        expected = expected.flatten(1)
    assert torch.equal(embedder.features(images), expected)
    numbers = embedder.encoder.width if head == "flatten" else NARROWED
    assert embedder.head[-2].weight.shape == (8, tokens * numbers)
    torch.testing.assert_close(embedder(images), embedder.head(expected))


@pytest.mark.parametrize("encoder", ["vit", "cnn"])
@pytest.mark.parametrize("head", ["flatten", "narrow"])
def test_where_all_tokens_are_seen_hidden_ones_are_zero_and_the_others_stay_where_they_are(
    experiment, images, encoder, head
):
    model = experiment.defaults.model.model_copy(update={"encoder": encoder, "head": head})
    embedder = build_embedder(model, SIZE).eval()
    mask = hide_highest(torch.rand(6, 16, generator=torch.manual_seed(2)), 5)
    tokens = embedder.features(images, mask).view(6, 16, -1)
    assert torch.equal((tokens == 0).all(dim=2), mask.hidden)
    visible = tokens.gather(1, mask.visible_ids[:, :, None].expand(-1, -1, tokens.shape[2]))
    torch.testing.assert_close(visible, embedder.encoder(images, mask).tokens)


def test_what_a_mask_hides_does_not_reach_the_embedding(experiment, images):
    embedder = build_embedder(experiment.defaults.model, SIZE).eval()
    mask = hide_highest(torch.rand(6, 16, generator=torch.manual_seed(2)), 8)
    hidden = mask.hidden.view(6, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = torch.where(hidden, torch.rand_like(images), images)
    assert torch.equal(embedder(images, mask), embedder(changed, mask))
    assert not torch.allclose(embedder(images, mask), embedder(images), atol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_head_that_passes_on_leaves_the_correlation_of_pooled_tokens(experiment, images, name):
    model = experiment.defaults.model.model_copy(update={"encoder": name, "head": "pooled"})
    width = build_encoder(model, SIZE).width
    embedder = build_embedder(model.model_copy(update={"embedding": width}), SIZE).eval()
    pass_through(embedder)
    found = torch.nn.functional.normalize(embedder(images), dim=1)
    pooled = embedder.encoder.pool(embedder.encoder(images))
    torch.testing.assert_close(found @ found.T, torch.corrcoef(pooled), rtol=0, atol=1e-3)
