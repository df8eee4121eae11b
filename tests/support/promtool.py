"""Prometheus' own checker of rules."""

import shutil
import subprocess

import pytest


def promtool(*arguments: str) -> None:
    """Fails with what it says; skips the test where there is none."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: it comes with Prometheus")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
