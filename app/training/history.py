"""The course of a run: one line of JSON per update, and TensorBoard's files where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from app.files import write_file

HISTORY = "history.jsonl"


class History:
    """Appends records to `history.jsonl` in the folder of the run."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / HISTORY
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"))

    def cut(self, update: int) -> None:
        """Forgets what came after the checkpoint from which the run goes on."""
        kept = [record for record in read_history(self.file) if record["update"] <= update]
        write_file(self.file, "".join(json.dumps(record) + "\n" for record in kept).encode())

    def add(self, record: dict[str, float]) -> None:
        """Adds the record of an update; `update` numbers it."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in record.items():
                self._board.add_scalar(name, value, int(record["update"]))

    def close(self) -> None:
        """Writes out what TensorBoard still holds back."""
        if self._board is not None:
            self._board.close()


def read_history(file: Path) -> list[dict[str, float]]:
    """Returns all records; a last line that was cut off by a crash is left out."""
    if not file.is_file():
        return []
    records = []
    for line in file.read_text("utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
