import sys
from subprocess import run

import pytest

from facemae.config.networks import NETWORKS, STRIDES, patch_sizes


@pytest.mark.parametrize("network", NETWORKS)
def test_table_is_timms(network):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    with torch.device("meta"):
        stages = timm.create_model(network).feature_info[-4:]
    assert tuple(stage["num_chs"] for stage in stages) == NETWORKS[network]
    assert tuple(stage["reduction"] for stage in stages) == STRIDES


def test_patch_sizes_tile_the_image():
    assert patch_sizes(112) == (4, 8, 16)
    assert patch_sizes(224) == (4, 8, 16, 32)
    assert patch_sizes(36) == (4,)
    assert patch_sizes(30) == ()


def test_asking_needs_no_torch():
    code = "import sys, facemae.config.networks; print('torch' in sys.modules or 'timm' in sys.modules)"
    assert run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
