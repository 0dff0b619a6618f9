import sys
from subprocess import run

import pytest

from facemae.config.networks import NETWORKS, STRIDES, patch_sizes, stage_widths


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


def test_stages_end_at_the_patch_size():
    assert stage_widths("convnextv2_atto", 8) == (40, 80)
    assert stage_widths("resnet50", 32) == (256, 512, 1024, 2048)


def test_a_network_that_cannot_be_masked_is_refused_with_those_that_can():
    with pytest.raises(ValueError, match=r"network vgg11 cannot .* convnextv2_atto, .* or resnet50$"):
        stage_widths("vgg11", 8)


def test_a_patch_size_that_is_no_stride_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"patch_size 14 is no stride of resnet18; choose 4, 8, 16 or 32$"):
        stage_widths("resnet18", 14)


def test_asking_needs_no_torch():
    code = "import sys, facemae.config.networks; print('torch' in sys.modules or 'timm' in sys.modules)"
    assert run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
