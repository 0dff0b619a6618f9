import argparse
import contextlib
import json
import os
import re
import sys
from types import SimpleNamespace

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models.vision_transformer import Block, VisionTransformer

from facemae.core import files, layout
from facemae.core.errors import IntegrityError, UsageError
from facemae.masking.mask import hide_highest
from facemae.models.build import build_embedder, build_encoder, build_mae
from facemae.models.cnn import Cnn
from facemae.models.interop.export import export
from facemae.models.interop.load import load_encoder
from facemae.models.interop.read import IMAGENET
from facemae.models.patches import patchify, position_embedding
from facemae.models.reconstruction import errors_of
from facemae.models.weights import save_weights

SIZE, PATCH, WIDTH, DEPTH, HEADS, BATCH = 32, 8, 16, 2, 2, 3
PATCHES = (SIZE // PATCH) ** 2
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def transformers():
    # Of the test group, not of the package, which writes Hugging Face's files without it.
    return pytest.importorskip("transformers", reason="Hugging Face's transformers are not installed")


@pytest.fixture
def images():
    return torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.fixture
def mask():
    noise = torch.rand(BATCH, PATCHES, generator=torch.Generator().manual_seed(3))
    return hide_highest(noise, round(0.75 * PATCHES))


@pytest.fixture
def run(small):
    """Return a function that gives the settings of a run of the published method, with changes."""

    def make(pretrain=(), **model):
        reference = {"class_token": True, "depth": DEPTH, "heads": HEADS, "width": WIDTH, "patch_size": PATCH}
        decoder = {"decoder_width": 24, "decoder_depth": 2, "decoder_heads": 3, "normalise_target": True}
        changes = {"model": reference | model, "pretrain": decoder | dict(pretrain)}
        return small(defaults=changes, baselines=[]).defaults

    return make


def shaken(network, seed=0):
    """Move every weight, since what starts at zero or one would hide that it is at the wrong place."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=random))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn(buffer.shape, generator=random))
    return network.eval()


def stage_of(settings, folder, seed=0):
    """Write a pretrain stage's folder, and return it and its network."""
    mae = shaken(build_mae(settings.model, settings.pretrain, SIZE), seed)
    whole = {"model": settings.model.model_dump(), "pretrain": settings.pretrain.model_dump()}
    files.write_json(folder / layout.CONFIG, whole | {"image_size": SIZE})
    save_weights(mae.encoder.trunk, folder / layout.ENCODER)
    save_weights(mae.decoder, folder / layout.DECODER)
    return folder, mae


def timms(class_token=True, size=SIZE, patch=PATCH, **changes):
    arguments = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 5} | changes
    pool = "token" if class_token else "avg"
    network = VisionTransformer(
        size, patch, class_token=class_token, global_pool=pool, fc_norm=False, **arguments
    )
    return shaken(network, 7)


def facebooks(**changes):
    """Return timm's network, and a checkpoint as facebookresearch/mae's training writes it."""
    network = timms(num_classes=0, **changes)
    block = {
        f"decoder_blocks.0.{name}": value for name, value in Block(24, 3, qkv_bias=True).state_dict().items()
    }
    decoder = {
        "mask_token": torch.zeros(1, 1, 24),
        "decoder_pos_embed": torch.zeros(1, PATCHES + 1, 24),
        "decoder_embed.weight": torch.zeros(24, WIDTH),
        "decoder_norm.weight": torch.zeros(24),
        "decoder_pred.weight": torch.zeros(PATCH**2 * 3, 24),
    }
    content = {
        "model": network.state_dict() | block | decoder,
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]},
        "epoch": 799,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="mae_vit_base_patch16", lr=1e-4, output_dir="./out"),
    }
    return network, content


def hugging_faces(transformers, folder, kind="ViTMAEForPreTraining", **changes):
    torch.manual_seed(5)
    settings = transformers.ViTMAEConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
        decoder_hidden_size=24, decoder_num_hidden_layers=2, decoder_num_attention_heads=3,
        decoder_intermediate_size=96, image_size=SIZE, patch_size=PATCH, layer_norm_eps=1e-6, **changes,
    )  # fmt: skip
    network = shaken(getattr(transformers, kind)(settings), 6)
    network.save_pretrained(folder)
    return network, folder / "model.safetensors"


def encoder_of(run, **model):
    return shaken(build_encoder(run(**model).model, SIZE), 1)


def normalised(images, mean, std):
    mean, std = (torch.tensor(part)[:, None, None] for part in (mean, std))
    return ((images + 1) / 2 - mean) / std


def tokens(encoder, images):
    encoding = encoder(images)
    return torch.cat([encoding.prefix, encoding.tokens], dim=1)


def refused(encoder, path, match, error=IntegrityError):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(error, match=match) as caught:
        load_encoder(encoder, path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


# --- parity with Hugging Face's ViTMAE ---


@pytest.fixture
def twins(run, transformers, tmp_path):
    """Our network, and transformers' from our exported files."""
    settings = run()
    folder, mae = stage_of(settings, tmp_path / "pretrain")
    export(folder, "huggingface", tmp_path / "out")
    theirs, report = transformers.ViTMAEForPreTraining.from_pretrained(
        tmp_path / "out", output_loading_info=True, local_files_only=True
    )
    assert not any(report.values()), report
    return mae, theirs.eval(), settings.pretrain


def noise_of(mask):
    """Return noise that lets ViTMAE, which keeps the lowest, hide what our mask hides."""
    return mask.hidden.float()


def test_the_loss_is_hugging_faces(twins, images, mask):
    mae, theirs, pretrain = twins
    ours = errors_of(mae, mae(images, mask), images, mask, pretrain).mean()
    found = theirs(images, noise=noise_of(mask))
    torch.testing.assert_close(found.mask.bool(), mask.hidden)
    assert ours.dtype == torch.float32
    assert ours.item() > 0.5
    torch.testing.assert_close(ours, found.loss, **CLOSE)


def test_so_are_the_gradients(twins, images, mask):
    mae, theirs, pretrain = twins
    errors_of(mae, mae(images, mask), images, mask, pretrain).mean().backward()
    theirs(images, noise=noise_of(mask)).loss.backward()
    gradient = mae.encoder.trunk.blocks[0].attn.qkv.weight.grad
    attention = theirs.vit.layers[0].attention
    joined = torch.cat([part.weight.grad for part in (attention.q_proj, attention.k_proj, attention.v_proj)])
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(gradient, joined, **CLOSE)
    for ours, other in [
        (mae.encoder.trunk.patch_embed.proj.weight, theirs.vit.embeddings.patch_embeddings.projection.weight),
        (mae.encoder.trunk.cls_token, theirs.vit.embeddings.cls_token),
        (mae.decoder.tokens.mask_token, theirs.decoder.mask_token),
        (mae.decoder.blocks[1].mlp.fc2.weight, theirs.decoder.decoder_layers[1].mlp.fc2.weight),
        (mae.decoder.head.pixels.bias, theirs.decoder.decoder_pred.bias),
    ]:
        assert ours.grad.abs().max() > 1e-4
        torch.testing.assert_close(ours.grad, other.grad, **CLOSE)


def test_so_is_every_prediction_and_token(twins, images, mask):
    mae, theirs, _ = twins
    with torch.no_grad():
        everywhere = mae(images, mask, mae.all_ids(BATCH, images.device)).patches
        torch.testing.assert_close(everywhere, theirs(images, noise=noise_of(mask)).logits, **CLOSE)
        encoding = mae.encoder(images, mask)
        seen = theirs.vit(images, noise=noise_of(mask)).last_hidden_state
        torch.testing.assert_close(encoding.prefix, seen[:, :1], **CLOSE)
        # Their argsort may keep the visible patches in another order.
        kept = noise_of(mask).argsort(dim=1)[:, : mask.visible_ids.shape[1]].argsort(dim=1)
        in_order = seen[:, 1:].gather(1, kept[:, :, None].expand(-1, -1, WIDTH))
        torch.testing.assert_close(encoding.tokens, in_order, **CLOSE)


def test_pixels_of_a_patch_are_in_hugging_faces_order(twins, images):
    _, theirs, _ = twins
    assert torch.equal(patchify(images, PATCH), theirs.patchify(images))


def test_our_fixed_positions_are_hugging_faces_with_row_and_column_exchanged(transformers, tmp_path):
    """ViTMAE begins with the column, as facebookresearch/mae does; the export writes ours into its files."""
    theirs, _ = hugging_faces(transformers, tmp_path)
    fresh = type(theirs)(theirs.config).decoder
    fresh.initialize_weights(PATCHES)  # transformers 5.23 forgets to, and leaves zeros
    found, ours = fresh.decoder_pos_embed[0], position_embedding(24, SIZE // PATCH)
    assert not found[0].any()
    torch.testing.assert_close(found[1:], torch.cat([ours[:, 12:], ours[:, :12]], dim=1), **CLOSE)


@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.55, 0.7, 0.9])
def test_hugging_face_hides_as_many_patches_as_we_do(run, transformers, tmp_path, images, ratio):
    folder, _ = stage_of(run({"mask_ratio": ratio}), tmp_path / "pretrain")
    export(folder, "huggingface", tmp_path / "out")
    theirs = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "out", local_files_only=True)
    assert theirs(images).mask.sum(dim=1).tolist() == [round(ratio * PATCHES)] * BATCH


def test_hugging_faces_processor_gives_our_input(run, transformers, tmp_path):
    folder, _ = stage_of(run(), tmp_path / "pretrain")
    export(folder, "huggingface", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    pixels = torch.tensor([0.0, 127.5, 255.0])
    ours = pixels / 127.5 - 1
    for mean, std in zip(told["image_mean"], told["image_std"], strict=True):
        torch.testing.assert_close((pixels * told["rescale_factor"] - mean) / std, ours)
    assert told["size"] == {"height": SIZE, "width": SIZE}


# --- export ---


@pytest.mark.parametrize("class_token", [True, False])
def test_timm_loads_the_encoder(run, tmp_path, images, class_token):
    settings = run(class_token=class_token)
    folder, mae = stage_of(settings, tmp_path / "pretrain")
    export(folder, "timm", tmp_path / "out")
    tensors = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    arguments = json.loads((tmp_path / "out" / layout.CONFIG).read_text())["model_args"]
    plain = VisionTransformer(**arguments).eval()
    plain.load_state_dict(tensors, strict=True)
    created = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert created.pretrained_cfg["mean"] == [0.5] * 3
    with torch.no_grad():
        for network in (plain, created):
            torch.testing.assert_close(network.forward_features(images), tokens(mae.encoder, images), **CLOSE)
            torch.testing.assert_close(network(images), mae.encoder.pool(mae.encoder(images)), **CLOSE)


def test_timm_loads_a_finetuned_encoder(run, tmp_path, images):
    settings = run(pool="class")
    embedder = shaken(build_embedder(settings.model, SIZE))
    files.write_json(tmp_path / layout.CONFIG, {"model": settings.model.model_dump(), "image_size": SIZE})
    save_weights(embedder, tmp_path / layout.EMBEDDER)
    export(tmp_path, "timm", tmp_path / "out")
    created = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.no_grad():
        pooled = embedder.encoder.pool(embedder.encoder(images))
        torch.testing.assert_close(created(images), pooled, **CLOSE)


@pytest.mark.parametrize("network", ["convnextv2_atto", "resnet10t"])
def test_timm_loads_a_cnn(run, tmp_path, images, network):
    folder, mae = stage_of(
        run({"decoder": "deconv"}, encoder="cnn", network=network, class_token=False), tmp_path / "a"
    )
    export(folder, "timm", tmp_path / "out")
    stages = mae.encoder.stages
    created = timm.create_model(
        f"local-dir:{tmp_path / 'out'}",
        pretrained=True, pretrained_strict=False, features_only=True, out_indices=stages,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for theirs, ours in zip(created(images), mae.encoder(images).maps, strict=True):
            torch.testing.assert_close(theirs, ours, **CLOSE)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"class_token": False}, "without a class token"),
        ({"pretrain": {"decoder": "cross"}}, "decoder transformer"),
        ({"encoder": "cnn", "class_token": False, "pretrain": {"decoder": "deconv"}}, "decoder transformer"),
    ],
)
def test_what_hugging_face_cannot_be_is_refused(run, tmp_path, changes, match):
    folder, _ = stage_of(run(**changes), tmp_path / "pretrain")
    with pytest.raises(UsageError, match=match):
        export(folder, "huggingface", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_finetuned_run_has_no_decoder_to_export(tmp_path):
    (tmp_path / layout.EMBEDDER).touch()
    with pytest.raises(UsageError, match="no decoder"):
        export(tmp_path, "huggingface", tmp_path / "out")


def test_an_mlp_is_not_exported(run, tmp_path):
    folder, _ = stage_of(run({"decoder": "mlp"}, encoder="mlp", class_token=False), tmp_path / "pretrain")
    with pytest.raises(UsageError, match="mlp"):
        export(folder, "timm", tmp_path / "out")


def test_nothing_is_written_over(run, tmp_path):
    folder, _ = stage_of(run(), tmp_path / "pretrain")
    with pytest.raises(UsageError, match="exists already"):
        export(folder, "timm", folder)


def test_exported_bytes_are_the_same_each_time(run, tmp_path):
    folder, _ = stage_of(run(), tmp_path / "pretrain")
    for out in ("a", "b"):
        export(folder, "huggingface", tmp_path / out)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


# --- import ---


def test_our_own_encoder(run, tmp_path, images):
    folder, mae = stage_of(run(), tmp_path / "pretrain")
    encoder = encoder_of(run)
    load_encoder(encoder, folder / layout.ENCODER)
    assert torch.equal(tokens(encoder, images), tokens(mae.encoder, images))


def test_a_finetuned_encoder_of_ours(run, tmp_path, images):
    embedder = shaken(build_embedder(run().model, SIZE))
    save_weights(embedder, tmp_path / layout.EMBEDDER)
    encoder = encoder_of(run)
    load_encoder(encoder, tmp_path / layout.EMBEDDER)
    assert torch.equal(tokens(encoder, images), tokens(embedder.encoder, images))


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_timms_weights(run, tmp_path, images, class_token, suffix):
    network, path = timms(class_token), tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": network.state_dict(), "epoch": 3}, path)
    else:
        safetensors.torch.save_file(network.state_dict(), path)
    encoder = encoder_of(run, class_token=class_token)
    load_encoder(encoder, path)
    with torch.no_grad():
        torch.testing.assert_close(tokens(encoder, images), network.forward_features(images), **CLOSE)


def test_the_checkpoint_of_a_training_of_facebooks(run, tmp_path, images):
    network, content = facebooks()
    torch.save(content, tmp_path / "checkpoint-799.pth")
    encoder = encoder_of(run)
    load_encoder(encoder, tmp_path / "checkpoint-799.pth")
    with torch.no_grad():  # its images are normalised by ImageNet's mean, ours lie in [-1, 1]
        theirs = network.forward_features(normalised(images, *IMAGENET))
        torch.testing.assert_close(tokens(encoder, images), theirs, **CLOSE)


@pytest.mark.parametrize("kind", ["ViTMAEForPreTraining", "ViTMAEModel"])
def test_hugging_faces_weights(run, transformers, tmp_path, images, kind):
    network, path = hugging_faces(transformers, tmp_path, kind, mask_ratio=0.0)
    encoder = encoder_of(run)
    load_encoder(encoder, path)
    vit = getattr(network, "vit", network)
    in_place = torch.arange(PATCHES).expand(BATCH, -1).float()
    with torch.no_grad():
        theirs = vit(images, noise=in_place).last_hidden_state
        torch.testing.assert_close(tokens(encoder, images), theirs, **CLOSE)
        # The names that transformers 5 gives the modules, and a processor's own mean and deviation.
        torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / "preprocessor_config.json").write_text(
            json.dumps({"image_mean": IMAGENET[0], "image_std": IMAGENET[1]})
        )
        load_encoder(encoder, tmp_path / "pytorch_model.bin")
        theirs = vit(normalised(images, *IMAGENET), noise=in_place).last_hidden_state
        torch.testing.assert_close(tokens(encoder, images), theirs, **CLOSE)


@pytest.mark.parametrize("library", ["timm", "huggingface"])
def test_what_we_export_we_import(run, tmp_path, images, library):
    folder, mae = stage_of(run(), tmp_path / "pretrain")
    export(folder, library, tmp_path / "out")
    encoder = encoder_of(run)
    load_encoder(encoder, tmp_path / "out" / "model.safetensors")
    assert torch.equal(tokens(encoder, images), tokens(mae.encoder, images))


def test_positions_and_patches_are_resampled(run, tmp_path):
    network, path = timms(size=96, patch=16), tmp_path / "weights.pth"  # 6 x 6 patches of 16
    torch.save(network.state_dict(), path)
    encoder = encoder_of(run)
    load_encoder(encoder, path)
    trunk = encoder.trunk
    positions = resample_abs_pos_embed(network.pos_embed, [4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(trunk.pos_embed, positions)
    assert torch.equal(trunk.pos_embed[:, 0], network.pos_embed[:, 0])
    patches = resample_patch_embed(network.patch_embed.proj.weight, [PATCH, PATCH])
    torch.testing.assert_close(trunk.patch_embed.proj.weight, patches)


def test_a_resampled_network_sees_nearly_the_same(run, tmp_path):
    """A smooth image at half the size gives tokens close to the original's."""
    network, path = timms(size=64, patch=16), tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    encoder = encoder_of(run)
    random = torch.rand(BATCH, 3, 4, 4, generator=torch.Generator().manual_seed(4)) * 2 - 1
    large, small = (F.interpolate(random, size=side, mode="bicubic") for side in (64, 32))
    with torch.no_grad():
        far = (tokens(encoder, small) - network.forward_features(large)).abs().mean()
        load_encoder(encoder, path)
        near = (tokens(encoder, small) - network.forward_features(large)).abs().mean()
    assert near < 0.1 * far


def test_a_class_token_that_we_have_not_is_dropped(run, tmp_path):
    network, path = timms(), tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    encoder = encoder_of(run, class_token=False)
    load_encoder(encoder, path)
    assert torch.equal(encoder.trunk.pos_embed, network.pos_embed[:, 1:])
    assert torch.equal(encoder.trunk.blocks[1].attn.qkv.weight, network.blocks[1].attn.qkv.weight)


def test_a_class_token_without_a_place_is_given_none(run, tmp_path):
    network, path = timms(no_embed_class=True), tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    encoder = encoder_of(run)
    refused(
        encoder, path, r"positions for 16 tokens, with a class token.*write the image_size"
    )  # or 3 x 5 + 1
    (tmp_path / "config.json").write_text('{"image_size": [32, 32]}')
    load_encoder(encoder, path)
    assert not encoder.trunk.pos_embed[:, 0].any()
    assert torch.equal(encoder.trunk.pos_embed[:, 1:], network.pos_embed)


def test_half_precision_becomes_single(run, tmp_path):
    network, path = timms(), tmp_path / "weights.safetensors"
    safetensors.torch.save_file({name: value.half() for name, value in network.state_dict().items()}, path)
    encoder = encoder_of(run)
    load_encoder(encoder, path)
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}
    assert torch.equal(encoder.trunk.cls_token, network.cls_token.half().float())


@pytest.mark.parametrize("network", ["convnextv2_atto", "resnet10t"])
@pytest.mark.parametrize("norm", [None, IMAGENET])
def test_timms_cnn(tmp_path, images, network, norm):
    torch.manual_seed(0)
    encoder = Cnn(SimpleNamespace(network=network, patch_size=PATCH), SIZE).eval()
    whole = shaken(timm.create_model(network))
    if norm:
        told = {"architecture": network, "pretrained_cfg": {"mean": norm[0], "std": norm[1]}}
        (tmp_path / "config.json").write_text(json.dumps(told))
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "model.safetensors")
    load_encoder(encoder, tmp_path / "model.safetensors")
    # A ResNet's first layer has no bias, so that it is taken as it is.
    seen = normalised(images, *norm) if norm and network.startswith("convnext") else images
    with torch.no_grad():
        maps = whole.forward_intermediates(seen, indices=encoder.stages, intermediates_only=True)
        for theirs, ours in zip(maps, encoder(images).maps, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_another_cnn_is_refused(tmp_path):
    encoder = Cnn(SimpleNamespace(network="resnet18", patch_size=PATCH), SIZE)
    path = tmp_path / "weights.pth"
    for other in ("resnet34", "resnet26", "convnextv2_atto"):  # deeper, with bottlenecks, of another kind
        torch.save(timm.create_model(other).state_dict(), path)
        refused(encoder, path, "another architecture|no encoder like this")


# --- what does not fit ---


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"embed_dim": 24}, "width 24 instead of 16"),
        ({"depth": 3}, "depth 3 instead of 2"),
        ({"embed_dim": 24, "depth": 1}, "width 24 instead of 16, depth 1 instead of 2"),
        ({"init_values": 1e-5}, r"blocks\.0\.ls1\.gamma has no place"),
        ({"reg_tokens": 4}, "reg_token has no place"),
        ({"reg_tokens": 4, "no_embed_class": True}, "reg_token has no place"),
        ({"pre_norm": True}, "is missing|has no place"),
        ({"qkv_bias": False}, r"qkv\.bias is missing"),
        ({"mlp_ratio": 2}, r"mlp\.fc1\.bias is \(32,\) instead of \(64,\)"),
        ({"in_chans": 1}, "three colours"),
    ],
)
def test_another_architecture_is_named(run, tmp_path, changes, match):
    path = tmp_path / "weights.pth"
    torch.save(timms(**changes).state_dict(), path)
    refused(encoder_of(run), path, match)


def test_a_class_token_that_is_missing_is_named(run, tmp_path):
    torch.save(timms(class_token=False).state_dict(), tmp_path / "weights.pth")
    refused(encoder_of(run), tmp_path / "weights.pth", "cls_token is missing")


@pytest.mark.parametrize(
    "told",
    [
        {"num_attention_heads": 4},
        {"model": {"size": "custom", "heads": 4}},
        {"model": {"size": "nano", "heads": 2}},
        {"architecture": "vit_base_patch16_224", "model_args": {"num_heads": 4}},
        {"architecture": "vit_tiny_patch16_224"},
    ],
)
def test_heads_are_compared_where_they_are_told(run, tmp_path, told):
    torch.save(timms().state_dict(), tmp_path / "weights.pth")
    (tmp_path / "config.json").write_text(json.dumps(told))
    heads = 3 if told == {"architecture": "vit_tiny_patch16_224"} else 4
    refused(encoder_of(run), tmp_path / "weights.pth", f"heads {heads} instead of 2")


@pytest.mark.parametrize(
    "beside", ["no JSON", "[]", '{"architecture": "hf-hub:a/b", "num_attention_heads": "x"}']
)
def test_heads_that_nobody_tells_are_said_to_be_taken(run, tmp_path, capsys, beside):
    torch.save(timms().state_dict(), tmp_path / "weights.pth")
    (tmp_path / "config.json").write_text(beside)
    load_encoder(encoder_of(run), tmp_path / "weights.pth")
    assert "does not tell its attention heads; they are taken to be 2" in capsys.readouterr().err


def test_an_mlp_starts_from_nothing(run, tmp_path):
    encoder = build_encoder(run({"decoder": "mlp"}, encoder="mlp", class_token=False).model, SIZE)
    refused(encoder, tmp_path / "weights.pth", "encoder mlp", UsageError)


def test_numbers_that_are_not_finite(run, tmp_path):
    tensors = timms().state_dict()
    tensors["norm.bias"][3] = torch.nan
    torch.save(tensors, tmp_path / "weights.pth")
    refused(encoder_of(run), tmp_path / "weights.pth", "not finite")


def test_the_wrong_file(run, tmp_path):
    encoder, path = encoder_of(run), tmp_path / "weights.safetensors"
    refused(encoder, path, "No such file", UsageError)
    safetensors.torch.save_file({"a.weight": torch.zeros(2)}, path)
    refused(encoder, path, "no encoder like this")
    torch.save([1, 2], path)
    refused(encoder, path, "no weights by name")


# --- files that mean harm ---


class Exploit:
    """Runs a command when it is unpickled, as a pickle can."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["alone", "weight", "args"])
def test_no_code_in_a_file_is_run(run, tmp_path, place, zipped):
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    exploit = Exploit(marker)
    _, content = facebooks()
    if place == "weight":
        content["model"]["cls_token"] = exploit
    if place == "args":
        content["args"].output_dir = exploit  # behind the one class that is let in
    torch.save(exploit if place == "alone" else content, path, _use_new_zipfile_serialization=zipped)
    refused(encoder_of(run), path, r"(posix|nt)\.system, so reading it would run code")
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the exploit is a real one
    assert marker.exists()


def test_the_class_that_is_let_in_calls_nothing(run, tmp_path):
    """An attribute named like a hook of the unpickler could at most call what weights may call anyway."""
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    hooked = argparse.Namespace()
    vars(hooked)["__setstate__"] = Exploit(marker)
    _, content = facebooks()
    torch.save(content | {"args": hooked}, path)
    refused(encoder_of(run), path, "system")
    assert not marker.exists()
    assert not any(
        name in vars(argparse.Namespace) for name in ("__reduce__", "__setstate__", "__new__", "__del__")
    )
    with pytest.raises(TypeError):
        argparse.Namespace(1)


def test_a_class_of_someone_elses_is_refused_and_let_in_nowhere_else(run, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": timms().state_dict(), "meter": SimpleNamespace(best=1.0)}, path)
    refused(encoder_of(run), path, "SimpleNamespace.*docs/interoperability.md")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("name", ["pos_embed", "blocks.0.attn.qkv.weight"])
def test_a_small_file_cannot_fill_the_memory(run, tmp_path, name):
    tensors = timms().state_dict()
    tensors[name] = torch.zeros(1).expand(1, 2**32, WIDTH)  # one number, read 2^36 times
    torch.save(tensors, tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").stat().st_size < 100_000
    refused(encoder_of(run), tmp_path / "weights.pth", f"{re.escape(name)} is no plain tensor")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("value", [torch.zeros(2, 2).to_sparse(), torch.zeros(2, 2, device="meta")])
def test_other_tensors_are_refused(run, tmp_path, value):
    torch.save(timms().state_dict() | {"cls_token": value}, tmp_path / "weights.pth")
    refused(encoder_of(run), tmp_path / "weights.pth", "cls_token is no plain tensor")


@pytest.mark.parametrize("kind", ["safetensors", "torch", "legacy"])
def test_damaged_files_are_refused(run, tmp_path, kind):
    """Cut off, or with a byte changed in its structure: refused, or read as far as it makes sense."""
    encoder, path = encoder_of(run), tmp_path / "weights"
    tensors = timms().state_dict()
    if kind == "safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "torch")
    whole = path.read_bytes()
    for length in (0, 1, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(encoder, path, "damaged|no file of weights|no weights by name|run code|another architecture")
    for place in range(0, 1500, 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        with contextlib.suppress(IntegrityError):
            load_encoder(encoder, path)


@pytest.mark.parametrize(
    "name", ["pos_embed", "patch_embed.proj.weight", "norm.weight", "blocks.1.attn.qkv.bias"]
)
@pytest.mark.parametrize(
    "value", [torch.zeros(()), torch.zeros(0), torch.zeros(1, 0, WIDTH), torch.zeros(3, 3, 3, 3, 3)]
)
def test_tensors_of_any_shape_are_refused(run, tmp_path, name, value):
    torch.save(timms().state_dict() | {name: value}, tmp_path / "weights.pth")
    refused(encoder_of(run), tmp_path / "weights.pth", "another architecture|three colours|has positions")


def test_a_folder_that_is_no_stage_is_named(tmp_path):
    with pytest.raises(UsageError, match="is not the folder of a trained stage; name one"):
        export(tmp_path, "timm", tmp_path / "out")


def test_onnx_runtime_gives_our_embeddings(run, tmp_path, images):
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    settings = run(class_token=False)
    torch.manual_seed(0)
    embedder = build_embedder(settings.model, SIZE).eval()
    save_weights(embedder, tmp_path / "finetune" / layout.EMBEDDER)
    told = {"model": settings.model.model_dump(), "image_size": SIZE}
    files.write_json(tmp_path / "finetune" / layout.CONFIG, told)
    export(tmp_path / "finetune", "onnx", tmp_path / "out")
    with torch.inference_mode():
        expected = F.normalize(embedder(images), dim=1)

    def found(name, batch):
        session = runtime.InferenceSession(tmp_path / "out" / name, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"images": batch.numpy()})[0])

    torch.testing.assert_close(found("model.onnx", images), expected, **CLOSE)
    torch.testing.assert_close(found("model.onnx", images[:1]), expected[:1], **CLOSE)
    assert ((found("model.int8.onnx", images) * expected).sum(dim=1) > 0.99).all()


def test_only_an_embedder_is_exported_to_onnx(run, tmp_path):
    folder, _ = stage_of(run(), tmp_path / "pretrain")
    with pytest.raises(UsageError, match="holds no embedder"):
        export(folder, "onnx", tmp_path / "out")


def test_onnx_without_its_packages_is_refused_with_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    (tmp_path / "finetune").mkdir()
    (tmp_path / "finetune" / layout.EMBEDDER).write_bytes(b"")
    with pytest.raises(UsageError, match=r"onnxruntime; run: make extras"):
        export(tmp_path / "finetune", "onnx", tmp_path / "out")
