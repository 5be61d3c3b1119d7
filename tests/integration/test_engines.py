"""The engines, in a process of their own.

In a process that had converted towers, a SIGTERM that Python would have handled was seen to end it, and the tests of
training send some. The service stops in order all the same.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("engine_cases.py")


@pytest.mark.real
@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed (extra 'cpu')")
def test_every_engine_gives_the_vectors_of_torch() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "--no-cov", "-p", "no:cacheprovider", str(CASES)]
    outcome = subprocess.run(command, cwd=CASES.parent.parent.parent, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
