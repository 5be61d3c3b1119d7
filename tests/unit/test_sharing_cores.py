"""What the service tells the libraries that bring threads of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import json, os, threadpoolctl
from app.commands.cores import share_cores
share_cores()
pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["prefix"] == "libscipy_openblas"]
print(json.dumps([os.environ["OMP_WAIT_POLICY"], pools]))
"""


def told(**environment: str) -> tuple[str, list[int]]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "OPENBLAS_"))}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=inherited | environment, capture_output=True, check=True)
    policy, pools = json.loads(done.stdout)
    return policy, pools


def test_threads_wait_asleep_and_small_products_are_not_split() -> None:
    policy, pools = told()
    assert policy == "PASSIVE"
    assert set(pools) == {1}


def test_what_the_operator_says_counts() -> None:
    assert told(OMP_WAIT_POLICY="ACTIVE")[0] == "ACTIVE"
