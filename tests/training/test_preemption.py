import os
import signal
import subprocess
import sys
import time

import pytest

from facemae.core.errors import PreemptedError
from facemae.training.preemption import Stop, stop_signal

SIGNALS = [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]


def handlers():
    return [signal.getsignal(number) for number, _ in SIGNALS]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_first_signal_is_a_request(number, code):
    before = handlers()
    with stop_signal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal == number
        assert handlers() == before  # the next one ends the process
        error = stop.error("pretrain block/0", 12)
    assert handlers() == before
    assert isinstance(error, PreemptedError)
    assert error.exit_code == code
    assert str(error) == "pretrain block/0 stopped at step 12 and was saved; run the same command to go on."
    assert PreemptedError.exit_code == 75  # of one error, not of its kind


def test_without_a_signal_nothing_is_requested():
    before = handlers()
    with stop_signal() as stop:
        assert handlers() != before
    assert not stop.requested
    assert handlers() == before
    assert Stop().error("x", 1).exit_code == 75  # another process of the group was asked


def test_the_handlers_come_back_after_an_error():
    before = handlers()
    with pytest.raises(ZeroDivisionError), stop_signal():
        raise ZeroDivisionError
    assert handlers() == before


def test_a_second_interrupt_is_one():
    with stop_signal():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_sigterm_ends_the_process(first):
    code = (
        "import time\nfrom facemae.training.preemption import stop_signal\n"
        "with stop_signal() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while not stop.requested: time.sleep(0.01)\n"
        "    print('asked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(first)
    assert process.stdout.readline() == "asked\n"
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    assert time.monotonic() - started < 5
    process.stdout.close()
