"""`python -m tests.fuzzing TARGET`: runs a target under atheris; see the package."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

INSTRUMENTED = [
    "app", "zipfile", "csv", "json", "html", "urllib.parse", "ipaddress", "h11", "python_multipart", "starlette.formparsers",
    "uvicorn.protocols",
]  # fmt: skip


def main() -> None:
    """Fuzzes until the time is over, or something is found: libFuzzer then says what, and writes it to a file."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--found", type=Path, default=Path(), help="Folder for what is found.")
    given = parser.parse_args()
    try:
        import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise SystemExit("atheris is not installed: pip install atheris") from None
    for name in [one for one in sys.modules if one.startswith(tuple(INSTRUMENTED))]:
        del sys.modules[name]  # what is loaded already would not be instrumented
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzzing.targets import TARGETS
    fuzzed = TARGETS[given.target]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(fuzzed.seeds):
            (Path(folder) / str(number)).write_bytes(seed)
        options = [f"-max_total_time={given.seconds}", "-max_len=8192", "-timeout=10", "-rss_limit_mb=3000"]
        atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={given.found}/", folder], fuzzed.target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
