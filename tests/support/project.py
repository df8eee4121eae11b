"""Where the project lies, and what of it is installed."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
PACKAGED = ("docworker", "db", "jobs", "worker", "migrations", "pyproject.toml", "README.md", "LICENSE")
"""What a wheel is built from."""
