"""Model files that are damaged or mean harm: refused in a sentence, within 2 seconds and 200 MB."""

import contextlib
import json
import random
import struct
import time
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer

from facemae.core import files, layout
from facemae.core.errors import FaceMAEError, IntegrityError
from facemae.models.build import build_embedder, build_encoder
from facemae.models.interop.load import load_encoder
from facemae.models.weights import load_embedder, save_weights

SIZE, SECONDS, BYTES = 32, 2.0, 200e6


@contextlib.contextmanager
def within_limits():
    """Check that a block takes little processor time, and little memory beyond what the process has."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what there is
    before, started = memory("VmRSS"), time.process_time()
    yield
    assert time.process_time() - started < SECONDS
    assert memory("VmHWM") - before < BYTES


def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def refused(load, match):
    with within_limits(), pytest.raises(IntegrityError, match=match) as caught:
        load()
    assert caught.value.exit_code == 4
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def sparse(path, header, size):
    """Write a safetensors file of a header, and zeros that take no room on the disk."""
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(size)


def tensor(shape, begin, dtype="F32", item=4):
    count = item
    for side in shape:
        count *= side
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + count]}


# --- a folder of ours ---


@pytest.fixture
def stage(experiment, tmp_path):
    """Return a finetune stage's folder."""
    model = experiment.defaults.model
    save_weights(build_embedder(model, SIZE), tmp_path / layout.EMBEDDER)
    files.write_json(tmp_path / layout.CONFIG, {"model": model.model_dump(), "image_size": SIZE})
    return tmp_path


def test_the_folder_itself_is_read(stage):
    load_embedder(stage)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 4_000_000}, {"depth": 1_000_000}, {"heads": 10**30}, {"width": -16}, {"depth": 0},
        {"depth": -1}, {"width": 16.0}, {"width": "16"}, {"width": True}, {"patch_size": -8},
        {"patch_size": 7},
        {"embedding": 10**9}, {"encoder": "cnn", "network": "vgg16"}, {"heads": None}, {"encoder": ["vit"]},
    ],
)  # fmt: skip
def test_a_configuration_out_of_bounds(stage, changes):
    settings = json.loads((stage / layout.CONFIG).read_text())
    settings["model"] |= changes
    files.write_json(stage / layout.CONFIG, settings)
    refused(lambda: load_embedder(stage), r"config\.json is not the configuration of a trained run")


@pytest.mark.parametrize(
    "giant",
    [
        {"width": 4096, "depth": 64, "heads": 64},
        {"encoder": "cnn", "network": "resnet50", "patch_size": 4},
        {"encoder": "mlp", "width": 4096, "depth": 1},
    ],
)
def test_a_giant_that_is_within_bounds_is_compared_before_it_is_built(stage, giant):
    settings = json.loads((stage / layout.CONFIG).read_text())
    settings["model"] |= giant | {"embedding": 4096, "head": "flatten"}
    files.write_json(stage / layout.CONFIG, settings | {"image_size": 448})
    refused(lambda: load_embedder(stage), "does not fit its configuration")
    (stage / layout.EMBEDDER).unlink()
    refused(lambda: load_embedder(stage), "cannot be read as weights")


@pytest.mark.parametrize("size", [-32, 0, 31, 4480, 10**30, "32", None, [32], 32.0])
def test_an_image_size_out_of_bounds(stage, size):
    settings = json.loads((stage / layout.CONFIG).read_text())
    files.write_json(stage / layout.CONFIG, settings | {"image_size": size})
    refused(lambda: load_embedder(stage), r"config\.json")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"width": ' + "9" * 5000 + "}", "[]", "3", " " * 2_000_000]
)
def test_a_configuration_that_is_none(stage, text):
    (stage / layout.CONFIG).write_text(text)
    refused(lambda: load_embedder(stage), r"config\.json")


def changed(tensors, change):
    name = next(iter(tensors))
    weight = next(key for key, value in tensors.items() if value.is_floating_point())
    return {
        "missing": {key: value for key, value in tensors.items() if key != name},
        "extra": tensors | {"more": torch.zeros(2)},
        "renamed": {key if key != name else "\x1b[31mx\n" * 10_000: value for key, value in tensors.items()},
        "shape": tensors | {name: tensors[name][None]},
        "dtype": tensors | {name: tensors[name].double()},
        "none": {},
        "nan": tensors | {weight: tensors[weight] * torch.nan},
    }[change]


@pytest.mark.parametrize("change", ["missing", "extra", "renamed", "shape", "dtype", "none", "nan"])
def test_weights_that_do_not_fit(stage, change):
    path = stage / layout.EMBEDDER
    path.write_bytes(safetensors.torch.save(changed(safetensors.torch.load_file(path), change)))
    match = "not finite" if change == "nan" else "does not fit its configuration"
    refused(lambda: load_embedder(stage), match)


def test_five_gigabytes_of_nothing(stage):
    path = stage / layout.EMBEDDER
    for text, match in (
        (b"", "cannot be read as weights"),
        (b"{}", "cannot be read as weights"),
        ({"a": tensor([5 * 2**28], 0)}, "does not fit its configuration"),
    ):
        sparse(path, text, 8 + len(json.dumps(text) if isinstance(text, dict) else text) + 5 * 2**30)
        refused(lambda: load_embedder(stage), match)


def test_a_header_of_a_gigabyte(stage):
    path = stage / layout.EMBEDDER
    for length in (2**30, 2**63, 2**64 - 1):
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", length) + b'{"a":')
            file.truncate(2**30 + 8)
        refused(lambda: load_embedder(stage), "cannot be read as weights")


# --- somebody else's file ---


def theirs(**changes):
    shape = {"img_size": SIZE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return VisionTransformer(
        **{**shape, "num_classes": 0, "class_token": False, "global_pool": "avg", **changes}
    )


@pytest.fixture
def encoder(experiment):
    return build_encoder(experiment.defaults.model, SIZE)


def zip_entry(path, name, data, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, data, method)


def test_a_checkpoint_of_five_gigabytes_of_nothing(encoder, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(theirs().state_dict(), path)
    for head in (b"", b"PK\x03\x04", b"\x80\x02", path.read_bytes()):
        with open(path, "wb") as file:
            file.write(head)
            file.truncate(5 * 2**30)
        refused(lambda: load_encoder(encoder, path), "weights.pth is no file of weights that can be read")


def test_a_file_beyond_any_limit_is_not_opened(encoder, tmp_path):
    path = tmp_path / "weights.pth"
    with open(path, "wb") as file:
        file.truncate(2**40)
    refused(lambda: load_encoder(encoder, path), "takes 1024.0 GiB, and 16 are the most for weights")


def test_parts_of_a_checkpoint_that_unpack_a_thousandfold(encoder, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(theirs().state_dict(), path)
    zip_entry(path, "archive/data/99", b"\0" * 2**24, zipfile.ZIP_DEFLATED)
    refused(lambda: load_encoder(encoder, path), "is compressed")
    torch.save(theirs().state_dict(), path)
    zip_entry(path, "archive/version2", b"\0" * 2**23)
    refused(lambda: load_encoder(encoder, path), "takes 8388608 bytes")


@pytest.mark.parametrize("name", ["blocks.0.mlp.fc1.weight", "patch_embed.proj.weight", "pos_embed", "other"])
def test_one_tensor_that_is_a_giant(encoder, tmp_path, name):
    state = {key: value.shape for key, value in theirs(fc_norm=False).state_dict().items()}
    state[name] = (16, 3, 2**12, 2**12) if "patch" in name else (1, 2**27, 16)
    header, begin = {}, 0
    for key, shape in state.items():
        header[key] = tensor(shape, begin)
        begin = header[key]["data_offsets"][1]
    path = tmp_path / "weights.safetensors"
    sparse(path, header, 8 + len(json.dumps(header)) + begin)
    refused(lambda: load_encoder(encoder, path), "another architecture|square patches|has positions")


def test_query_key_and_value_of_giants(encoder, tmp_path):
    first = "vit.embeddings.patch_embeddings.projection.weight"
    header, begin = {first: tensor((16, 3, 8, 8), 0)}, 16 * 3 * 64 * 4
    for layer in range(2):
        for part in ("query", "key", "value"):
            name = f"vit.encoder.layer.{layer}.attention.attention.{part}.weight"
            header[name] = tensor((2**14, 2**14), begin)
            begin += 2**30
    path = tmp_path / "model.safetensors"
    sparse(path, header, 8 + len(json.dumps(header)) + begin)
    refused(lambda: load_encoder(encoder, path), "another architecture")


def test_a_configuration_beside_it_that_is_none_is_said_to_be_unused(encoder, tmp_path, capsys):
    torch.save(theirs().state_dict(), tmp_path / "weights.pth")
    (tmp_path / "config.json").write_text("[" * 100_000)
    with within_limits():
        load_encoder(encoder, tmp_path / "weights.pth")
    assert "config.json beside weights.pth cannot be read" in capsys.readouterr().err


COLOURS = [
    ("[1e400, 1, 1]", "[1, 1, 1]"), ("[NaN, 0, 0]", "[1, 1, 1]"), ("[0, 0, 0]", "[0, 1, 1]"),
    ("[0, 0, 0]", "[-0.5, 0.5, 0.5]"), ("[0, 0, 0]", "[1e-300, 1, 1]"), ("[0.5]", "[0.25]"), ("0.5", "0.25"),
    ("[0.4, 0.4, 0.4]", "null"), ("[123, 116, 103]", "[58, 57, 57]"), ("[true, true, true]", "[1, 1, 1]"),
]  # fmt: skip


@pytest.mark.parametrize(("mean", "std"), COLOURS)
def test_colours_that_no_images_have_are_not_left_out_in_silence(encoder, tmp_path, mean, std):
    path = tmp_path / "weights.pth"
    torch.save(theirs().state_dict(), path)
    (tmp_path / "config.json").write_text(f'{{"image_mean": {mean}, "image_std": {std}}}')
    refused(lambda: load_encoder(encoder, path), "three numbers from 0 to 1 are needed of each")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_whole_numbers_are_no_weights(encoder, tmp_path, dtype):
    """Without their scale the numbers of a quantised network are others."""
    path, state = tmp_path / "weights.pth", theirs(fc_norm=False).state_dict()
    torch.save(state | {"norm.weight": state["norm.weight"].to(dtype)}, path)
    refused(lambda: load_encoder(encoder, path), r"norm\.weight holds whole numbers")


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "x" * 100_000])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_names_that_would_change_a_terminal(encoder, tmp_path, name, kind):
    path = tmp_path / f"weights.{kind}"
    state = theirs(fc_norm=False).state_dict() | {name: torch.zeros(2)}
    torch.save(state, path) if kind == "pth" else safetensors.torch.save_file(state, path)
    refused(lambda: load_encoder(encoder, path), "has no place")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64])
def test_numbers_of_odd_types(encoder, tmp_path, dtype):
    state = theirs(fc_norm=False).state_dict()
    torch.save(state | {"pos_embed": state["pos_embed"].to(dtype)}, tmp_path / "weights.pth")
    refused(lambda: load_encoder(encoder, tmp_path / "weights.pth"), "pos_embed is no plain tensor")


# --- whatever else happens to a file ---


def mutated(data, draw):
    """Return bytes with one to three changes, most of them near the start, where the structure is."""
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(min(len(data), 4000) if draw.random() < 0.8 else len(data))
        length = draw.choice([1, 1, 1, 8, 100])
        kind = draw.choice(["flip", "number", "cut", "insert", "repeat", "end"])
        if kind == "flip":
            data = data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]
        elif kind == "number":  # in JSON and in headers alike, what says a size
            data = data[:place] + draw.choice([b"-", b"9", b"\xff", b"e", b"999999999"]) + data[place + 1 :]
        elif kind == "cut":
            data = data[:place] + data[place + length :]
        elif kind == "insert":
            data = data[:place] + draw.randbytes(length) + data[place:]
        elif kind == "repeat":
            data = data[: place + length] + data[place:]
        else:
            data = data[: place + 1]
    return data


@pytest.mark.parametrize(
    ("kind", "count"),
    [("embedder.safetensors", 60), ("config.json", 140), ("theirs.pth", 150), ("theirs.safetensors", 150)],
)
def test_500_mutations_are_refused_in_a_sentence_or_do_no_harm(stage, encoder, tmp_path, kind, count):
    torch.save(theirs(fc_norm=False).state_dict(), tmp_path / "theirs.pth")
    safetensors.torch.save_file(theirs(fc_norm=False).state_dict(), tmp_path / "theirs.safetensors")
    path, draw, read = tmp_path / kind, random.Random(kind), 0
    whole = path.read_bytes()
    for _ in range(count):
        path.write_bytes(mutated(whole, draw))
        with within_limits(), contextlib.suppress(FaceMAEError):
            if kind.startswith("theirs"):
                load_encoder(encoder, path)
            else:
                encoder = load_embedder(stage).encoder
            read += 1
        assert all(weight.isfinite().all() for weight in encoder.parameters())
    assert read < 0.8 * count
