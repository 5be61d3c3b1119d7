"""A real service with the computable model, in a process that can be killed: `python -m tests.fake_service`.

Importing takes seconds, so one process imports, and forks a service for every line that it reads: `serve FOLDER LOG` is
answered with its process id and port, `kill PID SIGNAL` with its exit status, once it is dead.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

import uvicorn

from app import files
from app.api.app import create_app
from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.judge import Judge
from app.matcher import Matcher
from app.settings import Settings
from app.telemetry import configure_logging
from tests.conftest import THRESHOLDS
from tests.fakes import FINGERPRINT, FUSION, FakeEncoder


def serve(folder: Path, log: Path, listening: socket.socket) -> NoReturn:
    """Serves a data folder until it is told to stop; what it says goes into a file."""
    status = 1
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(1, 2)
        configure_logging("info", "json")
        logging.getLogger("app.audit").disabled = True
        logging.getLogger("app.api.middleware").disabled = True
        files.MANY = 3  # small commits, too, are synced in the way of large ones
        catalog = LocalCatalog(DataFolder(folder), FUSION, FINGERPRINT)
        matcher = Matcher(FakeEncoder(), catalog, Judge(FUSION, THRESHOLDS, None), f"fake@{FINGERPRINT}")
        app = create_app(matcher, Settings(data_dir=folder, max_batch_size=4))
        uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run(sockets=[listening])
        status = 0
    except BaseException:
        logging.getLogger(__name__).exception("the service failed")
    finally:
        os._exit(status)


def main() -> None:
    """Does as it is told, line by line, until there are no more; then nothing that it started is left."""
    alive: set[int] = set()
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "serve":
            with socket.create_server(("127.0.0.1", 0)) as listening:
                port = listening.getsockname()[1]
                pid = os.fork()
                if pid == 0:
                    serve(Path(rest[0]), Path(rest[1]), listening)
            alive.add(pid)
            answer = f"{pid} {port}"
        else:
            os.kill(int(rest[0]), int(rest[1]))
            alive.remove(int(rest[0]))
            answer = str(os.waitstatus_to_exitcode(os.waitpid(int(rest[0]), 0)[1]))
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
