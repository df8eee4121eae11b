"""Asks OSV, by pip-audit, whether versions that we pin are known to be vulnerable.

Run as `python -m tests.support.audit`: exit code 3 for a vulnerable one. Where OSV does not answer, nothing was looked
at: it says so, and the exit code is 0, so that nobody is held up who works without it.
"""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.support.project import PROJECT

OSV = "https://api.osv.dev/v1/query"
PIP_AUDIT = Path(sys.executable).parent / "pip-audit"
VULNERABLE = 3
_ANSWER_SECONDS = 10


def answers(url: str) -> bool:
    """Whether something at this address answers a question as OSV does."""
    question = json.dumps({"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "0"}).encode()
    asked = urllib.request.Request(url, question, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=_ANSWER_SECONDS) as answer:
            return isinstance(json.load(answer), dict)
    except (OSError, ValueError):
        return False


def findings(pins: Path, url: str) -> list[str]:
    """One line for each vulnerability of a version that is pinned in this file (`name==version` in each line).

    Raises CalledProcessError when not all of them could be looked at.
    """
    options = ["--vulnerability-service=osv", f"--osv-url={url}", "--no-deps", "--disable-pip", "--strict"]
    output = ["--format=json", "--desc=off", "--aliases=on", "--progress-spinner=off"]
    command: list[str | Path] = [PIP_AUDIT, *options, *output, "--requirement", pins]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        looked_at = json.loads(done.stdout)["dependencies"]
    except ValueError:
        raise subprocess.CalledProcessError(done.returncode, PIP_AUDIT, done.stdout, done.stderr) from None
    return [
        f"{one['name']} {one['version']}: {', '.join(sorted([found['id'], *found['aliases']]))}; "
        f"fixed in {', '.join(found['fix_versions']) or 'no release'}"
        for one in looked_at
        for found in one["vulns"]
    ]


def main(pins: Path = PROJECT / "constraints.txt", url: str = OSV) -> int:
    """Print what was found; the exit code."""
    if not answers(url):
        print(f"audit: {url} does not answer: NOTHING WAS AUDITED")  # noqa: T201 - its output
        return 0
    try:
        found = findings(pins, url)
    except subprocess.CalledProcessError as error:
        print(f"audit: {error}: {error.stderr.strip()[-2000:]}", file=sys.stderr)  # noqa: T201
        return 1
    for one in found:
        print(f"audit: VULNERABLE: {one}", file=sys.stderr)  # noqa: T201
    if not found:
        print(f"audit: OSV knows no vulnerability of what {pins.name} pins")  # noqa: T201
    return VULNERABLE if found else 0


if __name__ == "__main__":
    sys.exit(main())
