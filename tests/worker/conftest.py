"""Fixtures for workers under trial."""

from pathlib import Path

import pytest

from tests.support.processes import Processes
from tests.support.trials import Trial, install_trial_tasks


@pytest.fixture
def trial(fresh_environment: dict[str, str], processes: Processes, tmp_path: Path) -> Trial:
    """Workers with the tasks of `trial_tasks`, on a fresh database and broker prefix."""
    install_trial_tasks(tmp_path / "processes")
    directory = tmp_path / "trial"
    directory.mkdir()
    return Trial(processes, directory)


@pytest.fixture
def bare_trial(processes: Processes, tmp_path: Path) -> Trial:
    """As `trial`, with the settings that are in force."""
    install_trial_tasks(tmp_path / "processes")
    directory = tmp_path / "trial"
    directory.mkdir()
    return Trial(processes, directory)
