"""Asks whether a version of constraints.txt has a known vulnerability. `make audit` runs it, and so does `make test`.

    python deploy/audit.py [--required] [--osv-url URL] [--file constraints.txt]

First it asks about a version that has some: a source that does not know them is none, whatever it answers (pip-audit takes
a registry without advisories for one that has none to tell). Then the audit is SKIPPED, with the reason, and the exit code
is 0: machines that reach a package registry and nothing else must be able to build. --required makes that a failure, for a
release. What is accepted for now is in audit-ignored.toml, with a reason and a day when that ends.

Exit codes: 0 nothing found, or skipped; 1 found; 2 skipped, and required.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
IGNORED = Path(__file__).parent / "audit-ignored.toml"
KNOWN_BAD = "urllib3==1.24.1"
TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Ignored:
    """A vulnerability that is accepted until a day, and why."""

    id: str
    until: date
    reason: str


class NoAnswer(Exception):
    """The source of advisories did not answer; the text says how."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--required", action="store_true", help="fail if nobody answers")
    parser.add_argument("--osv-url", help="a source that speaks OSV's protocol, instead of PyPI")
    parser.add_argument("--file", type=Path, default=ROOT / "constraints.txt", help="exact versions, one a line")
    parser.add_argument("--ignored", type=Path, default=IGNORED, help="what is accepted for now")
    options = parser.parse_args(arguments)
    source = ["--vulnerability-service", "osv", "--osv-url", options.osv_url] if options.osv_url else []
    try:
        check_source(source)
        packages = ask(options.file, source)
    except NoAnswer as error:
        print(f"audit SKIPPED: {error}")
        return 2 if options.required else 0
    return report(packages, read_ignored(options.ignored), datetime.now(UTC).date())


def check_source(source: list[str]) -> None:
    """Raises NoAnswer unless the source knows what everybody knows."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "known-bad.txt"
        file.write_text(KNOWN_BAD + "\n", "utf-8")
        if not any(package.get("vulns") for package in ask(file, source)):
            raise NoAnswer(
                f"the source knows nothing of {KNOWN_BAD}, which has known vulnerabilities: it has no advisories."
            )


def ask(file: Path, source: list[str]) -> list[dict[str, Any]]:
    """Returns what pip-audit says of each version. Raises NoAnswer if it could not ask."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(file), "--disable-pip", "--no-deps"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "15", *source]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"no answer within {TIMEOUT_S} s.") from error
    except (json.JSONDecodeError, KeyError) as error:
        raise NoAnswer((done.stderr.strip().splitlines() or ["pip-audit said nothing."])[-1]) from error
    return found


def read_ignored(file: Path) -> list[Ignored]:
    """Returns what is accepted for now."""
    return [Ignored(**entry) for entry in tomllib.loads(file.read_text("utf-8")).get("ignored", [])]


def report(packages: list[dict[str, Any]], ignored: list[Ignored], today: date) -> int:
    """Prints what was found; returns the exit code."""
    accepted = {one.id: one for one in ignored if one.until >= today}
    failed = False
    met: set[str] = set()
    for package in packages:
        if "skip_reason" in package:
            failed = True
            print(f"{package['name']}: not known to the source ({package['skip_reason']})")
        for found in package.get("vulns", []):
            names = {found["id"], *found["aliases"]}
            met |= names
            version = f"{package['name']} {package['version']}: {found['id']}"
            if excuse := next((accepted[name] for name in names if name in accepted), None):
                print(f"{version} accepted until {excuse.until}: {excuse.reason}")
                continue
            failed = True
            print(f"{version}, fixed in {', '.join(found['fix_versions']) or 'no version yet'}")
    for one in ignored:
        if one.until < today:
            print(f"{one.id} was accepted until {one.until}: update, or say in {IGNORED.name} why not")
        elif one.id not in met:
            print(f"{one.id} is in {IGNORED.name} and was not found: take it out")
    print(f"audit: {len(packages)} versions, {'see above' if failed else 'nothing known against them'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
