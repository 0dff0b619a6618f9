import json
import subprocess
import sys

import pytest

DETECTOR = """
import sys
from PIL import Image
from facemae.data.alignment.detect import MtcnnDetector
MtcnnDetector().detect([Image.new("RGB", (64, 64))])
assert not {"torch._dynamo", "torch._dynamo.utils", "sympy"} & set(sys.modules)
from torch._dynamo.utils import is_compile_supported as found
assert "torch" in found.__module__
"""
RECOGNISER = """
import sys
import numpy as np
from facemae.evaluation.baselines.off_the_shelf import find_recogniser
found = find_recogniser("face-tiny")
found.load(found.weights())(np.zeros((1, 112, 112, 3), np.uint8))
assert "torch._dynamo" not in sys.modules
from facemae.training.optimizer import adamw
import torch._dynamo
assert torch._dynamo.config
"""
EXPLANATION = """
import sys
import facemae.recognition.explanation
assert "torch._dynamo" not in sys.modules
"""
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


CODES = {
    "a detector does not load it, and it can be loaded later": DETECTOR,
    "a shipped recogniser does not load it": RECOGNISER,
    "what explains a score does not load it": EXPLANATION,
    "threads that ask for it while a detector is loaded get it": IN_THE_MEANTIME,
    "who asks for it half-way gets it": WITHIN,
}

# Each code runs in a fork of a process that has loaded PyTorch, which takes longest, and nothing of ours.
FORKING = """
import json, os, sys, traceback
import torch
assert "torchvision" not in sys.modules and "torch._dynamo" not in sys.modules
failed = {}
for name, code in json.load(sys.stdin).items():
    receiving, sending = os.pipe()
    if os.fork() == 0:
        try:
            exec(code, {"__name__": "__main__"})
        except BaseException:
            os.write(sending, traceback.format_exc().encode())
            os._exit(1)
        os._exit(0)
    os.close(sending)
    said = open(receiving).read()
    status = os.waitstatus_to_exitcode(os.wait()[1])
    failed[name] = "" if status == 0 else said or f"ended with {status}"
print(json.dumps(failed))
"""


@pytest.fixture(scope="module")
def failed() -> dict[str, str]:
    """Return what went wrong in each code: nothing, or its traceback."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING], input=json.dumps(CODES), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CODES)
def test_the_compiler_is_loaded_for_those_who_ask(name, failed):
    assert failed[name] == ""
