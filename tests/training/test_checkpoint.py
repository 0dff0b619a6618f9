import random
import re

import pytest
import torch

from facemae.core.errors import IntegrityError, StorageError
from facemae.training import checkpoint
from facemae.training.optimizer import adamw


def state(step):
    """The tensors and facts of a made-up state."""
    tensors = {"network.w": torch.full((3, 5), float(step)), "network.n": torch.tensor(step)}
    return tensors, {"seconds": step * 1.5, "recent": [0.1 * step, 0.2]}


def save(folder, *steps):
    for step in steps:
        checkpoint.save(folder, step, *state(step))


def found(folder):
    """Return the step of the newest valid checkpoint, whose whole content is checked."""
    tensors, facts = checkpoint.newest(folder)
    step = int(tensors["network.n"])
    expected, more = state(step)
    assert facts.keys() == {"step", "seconds", "recent"}
    assert {key: facts[key] for key in ("step", *more)} == {"step": step, **more}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    return step


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_there_is_none_at_first(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "never made") is None


def test_the_newest_wins_and_two_are_kept(tmp_path):
    for step in (4, 8, 12, 100, 99_999_999):
        save(tmp_path, step)
        assert found(tmp_path) == step
    assert [checkpoint.step_of(path) for path in checkpoint.saved(tmp_path)] == [100, 99_999_999]
    assert all(re.fullmatch(r"step_\d{8}\.[0-9a-f]{16}\.safetensors", name) for name in names(tmp_path))


def file_of(folder, step):
    return next(path for path in checkpoint.saved(folder) if checkpoint.step_of(path) == step)


@pytest.mark.parametrize(
    "name", ["step_00000008.safetensors", "step_00000008", "step_00000008.json", "step_8.bak"]
)
def test_a_file_that_has_lost_its_checksum_is_damaged(tmp_path, name):
    save(tmp_path, 4, 8)
    file_of(tmp_path, 8).rename(tmp_path / name)
    assert found(tmp_path) == 4
    save(tmp_path, 8)
    assert found(tmp_path) == 8


def test_a_folder_in_place_of_a_file_is_damage(tmp_path):
    save(tmp_path, 4, 8)
    path = file_of(tmp_path, 8)
    path.unlink()
    path.mkdir()
    assert found(tmp_path) == 4


def test_damaged_tensors_are_noticed_wherever_the_damage_is(tmp_path):
    save(tmp_path, 4, 8)
    path = file_of(tmp_path, 8)
    data = path.read_bytes()
    drawn = random.Random(0)
    lengths = {0, 7, 8, len(data) - 1, *drawn.sample(range(len(data)), 200)}
    damaged = [data[:length] for length in sorted(lengths)] + [data + b"\0", b"\0" * len(data)]
    for _ in range(300):
        flipped = bytearray(data)
        flipped[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
        damaged.append(bytes(flipped))
    for each in damaged:
        path.write_bytes(each)
        assert found(tmp_path) == 4
    path.write_bytes(data)
    assert found(tmp_path) == 8


def test_the_reader_is_told_of_damage(tmp_path, capsys):
    save(tmp_path, 4, 8)
    path = file_of(tmp_path, 8)
    path.write_bytes(b"")
    found(tmp_path)
    assert f"{path.name} is damaged; using the checkpoint before it" in capsys.readouterr().err


def test_when_all_are_damaged_nothing_is_started_over(tmp_path):
    save(tmp_path, 4, 8)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"x")
    with pytest.raises(
        IntegrityError, match=r"Every checkpoint in .* is damaged; put a copy of them back"
    ) as caught:
        checkpoint.newest(tmp_path)
    assert caught.value.exit_code == 4


def test_a_full_disk_keeps_the_last_good_one(tmp_path):
    save(tmp_path, 4)
    save(tmp_path / "elsewhere", 8)
    name = file_of(tmp_path / "elsewhere", 8).name
    (tmp_path / f".{name}.tmp").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="disk is full"):
        save(tmp_path, 8)
    assert found(tmp_path) == 4
    save(tmp_path, 8)
    assert found(tmp_path) == 8


def test_the_state_of_a_finished_run_is_deleted(tmp_path):
    save(tmp_path / "state" / "abc", 4)
    checkpoint.remove(tmp_path / "state")
    assert names(tmp_path) == []
    checkpoint.remove(tmp_path / "state")  # again does no harm


def test_a_new_checkpoint_survives_damaged_ones_of_later_steps(tmp_path):
    save(tmp_path / "early", 4)
    save(tmp_path, 8, 12)
    for path in (tmp_path / "early").iterdir():  # killed before the oldest of three was deleted
        path.rename(tmp_path / path.name)
    for step in (8, 12):
        file_of(tmp_path, step).write_bytes(b"")
    assert found(tmp_path) == 4
    save(tmp_path, 6)
    assert found(tmp_path) == 6


# --- networks and optimisers ---


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)
        )
        self.unused = torch.nn.Parameter(torch.ones(2))  # never has a gradient, so no optimiser state

    def forward(self, values):
        return self.layers(values)


def made(experiment, seed):
    torch.manual_seed(seed)
    network = Net()
    return network, adamw(network, experiment.defaults.finetune)


def step(network, optimizer, number):
    values = torch.randn(6, 4, generator=torch.Generator().manual_seed(number))
    network(values).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_what_was_packed_goes_on_as_if_nothing_had_happened(experiment, tmp_path):
    network, optimizer = made(experiment, 0)
    for number in range(3):
        step(network, optimizer, number)
    checkpoint.save(tmp_path, 3, checkpoint.pack(network, optimizer), {})
    tensors, _ = checkpoint.newest(tmp_path)

    other, other_optimizer = made(experiment, 1)
    step(other, other_optimizer, 9)  # a state of its own, to be replaced
    checkpoint.unpack(tensors, other, other_optimizer)
    for number in range(3, 6):
        step(network, optimizer, number)
        step(other, other_optimizer, number)
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    first, second = checkpoint.pack(network, optimizer), checkpoint.pack(other, other_optimizer)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_optimiser_that_has_not_stepped_can_be_packed(experiment, tmp_path):
    network, optimizer = made(experiment, 0)
    checkpoint.save(tmp_path, 0, checkpoint.pack(network, optimizer), {})
    other, other_optimizer = made(experiment, 1)
    checkpoint.unpack(checkpoint.newest(tmp_path)[0], other, other_optimizer)
    assert torch.equal(other.layers[0].weight, network.layers[0].weight)
    assert other_optimizer.state_dict()["state"] == {}


def test_unpacking_keeps_the_settings_of_the_groups(experiment):
    network, optimizer = made(experiment, 0)
    step(network, optimizer, 0)
    before = [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    checkpoint.unpack(checkpoint.pack(network, optimizer), network, optimizer)
    after = [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    assert after == before
