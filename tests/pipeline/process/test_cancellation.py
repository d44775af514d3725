"""The first signal asks, the second one ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pipeline.errors import Cancelled
from pipeline.process.cancellation import Cancellation

# Work that never looks whether it was asked to stop.
DEAF = """
import time
from pipeline.process.cancellation import Cancellation
cancellation = Cancellation()
with cancellation.listening():
    print("ready", flush=True)
    while not cancellation.asked:
        time.sleep(0.01)
    print("asked", flush=True)
    while True:
        time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_seen_at_the_next_step(number: signal.Signals) -> None:
    cancellation = Cancellation()
    with cancellation.listening():
        cancellation.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Cancelled) as caught:
            cancellation.check()
    assert cancellation.asked
    assert caught.value.signal_number == number


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Cancellation().listening():
        os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_ctrl_c_ends_at_once_without_a_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert stderr == "\nedgestill: stopping after this step; once more to stop at once\n"
