import pytest
import safetensors.torch
import torch

from facemae.config import compatibility
from facemae.core import files, layout
from facemae.core.errors import IntegrityError
from facemae.models.build import build_embedder, build_mae
from facemae.models.embedder import embed
from facemae.models.weights import load_autoencoder, load_embedder, load_weights, save_weights

SIZE = 32


def seeded(build, seed=0, **changes):
    torch.manual_seed(seed)
    return build(**changes)


@pytest.fixture
def build(experiment):
    def make(**changes):
        return build_embedder(experiment.defaults.model.model_copy(update=changes), SIZE)

    return make


@pytest.fixture
def saved(build, tmp_path):
    """A network's file and its tensors."""
    path = tmp_path / "run" / "embedder.safetensors"
    network = seeded(build)
    save_weights(network, path)
    return path, network.state_dict()


def refused(build, path, match):
    network = seeded(build, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(IntegrityError, match=match) as caught:
        load_weights(network, path)
    assert caught.value.exit_code == 4
    assert str(path) in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_round_trip(build, saved):
    path, tensors = saved
    network = seeded(build, 1)
    assert any(not torch.equal(value, tensors[name]) for name, value in network.state_dict().items())
    load_weights(network, path)
    assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_same_weights_are_the_same_bytes(build, saved):
    path, _ = saved
    before = path.read_bytes()
    save_weights(seeded(build), path)
    assert path.read_bytes() == before


def test_missing_and_truncated_files(build, saved):
    path, _ = saved
    data = path.read_bytes()
    for length in (0, 4, 8, 9, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        refused(build, path, "cannot be read as weights")
    path.unlink()
    refused(build, path, "cannot be read as weights")


def test_a_flipped_bit_in_the_header_is_refused_or_harmless(build, saved):
    path, tensors = saved
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    refusals = 0
    for place in [*range(24), *range(24, header, 29)]:
        for bit in (0, 5, 7):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            network = seeded(build, 1)
            try:
                load_weights(network, path)
            except IntegrityError:
                refusals += 1
            else:  # such as a space that became a tab: every tensor is still the one that was saved
                assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())
    assert refusals > 100


def test_other_shapes_names_and_types(build, saved):
    path, tensors = saved
    name = "head.1.weight"
    changed = {
        "shape": tensors | {name: tensors[name].T.contiguous()},
        "type": tensors | {name: tensors[name].bfloat16()},
        "missing": {key: value for key, value in tensors.items() if key != name},
        "renamed": {key.replace(name, f"{name}s"): value for key, value in tensors.items()},
    }
    for each in changed.values():
        path.write_bytes(safetensors.torch.save(each))
        refused(build, path, rf"does not fit its configuration \(first difference: {name}s?\)")
    path.write_bytes(safetensors.torch.save(tensors | {"a_new_one": torch.zeros(1)}))
    refused(build, path, "first difference: a_new_one")


def test_another_configuration_is_told(build, saved):
    path, _ = saved
    refused(lambda: build(width=32), path, "does not fit its configuration")
    refused(lambda: build(depth=3), path, r"first difference: encoder\.trunk\.blocks\.2\.")
    refused(lambda: build(class_token=True), path, r"first difference: encoder\.trunk\.cls_token")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(build, saved, value):
    path, tensors = saved
    tensors["head.1.weight"][0, 3] = value
    path.write_bytes(safetensors.torch.save(tensors))
    refused(build, path, "not finite")


# --- a stage's folder ---


def settings_of(experiment, *sections):
    run = experiment.run("grid").shaping()  # what a stage writes: the parameters of its own strategy alone
    return {"run": "grid", "image_size": SIZE} | {name: run[name] for name in sections}


def test_an_embedder_comes_back_from_its_folder(experiment, build, tmp_path):
    network = seeded(build).eval()
    save_weights(network, tmp_path / layout.EMBEDDER)
    files.write_json(tmp_path / layout.CONFIG, settings_of(experiment, "model", "finetune"))
    loaded = load_embedder(tmp_path)
    assert not loaded.training
    images = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(embed(loaded, images), embed(network, images))


PAIRS = [(encoder, decoder) for encoder, names in compatibility.DECODERS.items() for decoder in names]


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_an_autoencoder_comes_back_from_its_folder(small, tmp_path, encoder, decoder):
    experiment = small(
        defaults={"model": {"encoder": encoder}, "pretrain": {"decoder": decoder}}, baselines=[]
    )
    torch.manual_seed(0)
    mae = build_mae(experiment.defaults.model, experiment.defaults.pretrain, SIZE)
    save_weights(mae.encoder.trunk, tmp_path / layout.ENCODER)
    save_weights(mae.decoder, tmp_path / layout.DECODER)
    files.write_json(tmp_path / layout.CONFIG, settings_of(experiment, "model", "pretrain"))
    loaded, pretrain = load_autoencoder(tmp_path)
    assert not loaded.training
    others = {"masks", "views"}  # of which a stage keeps what its own run uses
    assert pretrain.model_dump(exclude=others) == experiment.run("grid").pretrain.model_dump(exclude=others)
    assert pretrain.mask_parameters == {}
    assert pretrain.views is None
    expected = mae.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_the_encoder_of_a_pretrain_stage_fits_a_face_embedder(experiment, build, tmp_path):
    torch.manual_seed(0)
    mae = build_mae(experiment.defaults.model, experiment.defaults.pretrain, SIZE)
    save_weights(mae.encoder.trunk, tmp_path / layout.ENCODER)
    embedder = seeded(build, 1)
    load_weights(embedder.encoder.trunk, tmp_path / layout.ENCODER)
    expected = mae.encoder.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in embedder.encoder.state_dict().items())


def test_the_encoders_file_is_timms_own_network(experiment, tmp_path):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    mae = build_mae(experiment.defaults.model, experiment.defaults.pretrain, SIZE)
    save_weights(mae.encoder.trunk, tmp_path / layout.ENCODER)
    theirs = VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0,
                               class_token=False, global_pool="")  # fmt: skip
    theirs.load_state_dict(safetensors.torch.load_file(tmp_path / layout.ENCODER))


@pytest.mark.parametrize("load", [load_embedder, load_autoencoder])
def test_a_folder_with_a_damaged_configuration(tmp_path, load):
    with pytest.raises(IntegrityError, match=r"config\.json is not the configuration of a trained run"):
        load(tmp_path)
    files.write_json(tmp_path / layout.CONFIG, {"model": {"wide": 1}, "pretrain": {"wide": 1}})
    with pytest.raises(IntegrityError, match=r"of this version \(\w+: .*\); train the run again"):
        load(tmp_path)
    (tmp_path / layout.CONFIG).write_bytes(b"{")
    with pytest.raises(IntegrityError, match=r"config\.json is damaged"):
        load(tmp_path)


@pytest.mark.parametrize("load", [load_embedder, load_autoencoder])
def test_a_folder_with_a_configuration_that_is_not_ours(tmp_path, load):
    (tmp_path / layout.CONFIG).write_bytes(b"{}")
    with pytest.raises(IntegrityError):
        load(tmp_path)
