import subprocess
import sys

import pytest


def test_a_detector_does_not_load_the_compiler_which_can_be_loaded_later():
    code = (
        "import sys; from PIL import Image; from facemae.data.alignment.detect import MtcnnDetector; "
        "MtcnnDetector().detect([Image.new('RGB', (64, 64))]); "
        "assert not {'torch._dynamo', 'torch._dynamo.utils', 'sympy'} & set(sys.modules); "
        "from torch._dynamo.utils import is_compile_supported as found; assert 'torch' in found.__module__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_shipped_recogniser_does_not_load_the_compiler():
    code = (
        "import sys, numpy as np; from facemae.evaluation.baselines.off_the_shelf import find_recogniser; "
        "found = find_recogniser('face-tiny'); "
        "found.load(found.weights())(np.zeros((1, 112, 112, 3), np.uint8)); "
        "assert 'torch._dynamo' not in sys.modules; "
        "from facemae.training.optimizer import adamw; import torch._dynamo; assert torch._dynamo.config"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_explains_a_score_does_not_load_the_compiler():
    code = "import sys; import facemae.recognition.explanation; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


IN_THE_MEANTIME = """
import sys, threading
from facemae.compute import compiler
from facemae.data.alignment import detect
failed, start = [], threading.Barrier(6)
def use():
    start.wait()
    try:
        import torch._dynamo
        assert callable(torch._dynamo.disable) and torch._dynamo.config
        assert torch._dynamo.utils.counters is not None
    except BaseException as error:
        failed.append(repr(error))
def find():
    start.wait()
    try:
        detect.MtcnnDetector()
    except BaseException as error:
        failed.append(repr(error))
threads = [threading.Thread(target=each) for each in (find, use) * 3]
[each.start() for each in threads]; [each.join() for each in threads]
assert not failed, failed
"""
WITHIN = """
import sys
from facemae.compute import compiler
from facemae.data.alignment import detect
try:
    with compiler.without_compiler():
        assert type(sys.modules["torch._dynamo"]) is compiler.Later
        import torch._dynamo
        from torch._dynamo.utils import counters  # as another version of torchvision may ask for
        assert torch._dynamo.config is not None
        raise ImportError("half-way")
except ImportError as error:
    assert str(error) == "half-way", error
from torchvision.ops import roi_align
assert sys.modules["torch._dynamo"].config is not None
detect.MtcnnDetector()
"""


@pytest.mark.parametrize("code", [IN_THE_MEANTIME, WITHIN], ids=["threads", "half-way"])
def test_whoever_asks_for_the_compiler_while_a_detector_is_loaded_gets_it(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
