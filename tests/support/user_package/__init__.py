"""A package of a user's, with tasks and kinds of job that do as tests tell them, and its installation."""

from pathlib import Path

EXTENSION = "docworker_tests-1.0.dist-info"
MODULES = (f"{__name__}.tasks", f"{__name__}.jobs")


def install_user_package(directory: Path, *modules: str) -> None:
    """Let processes that are started in `directory` find it installed: with these modules, or with MODULES."""
    package = directory / EXTENSION
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: docworker-tests\nVersion: 1.0\n")
    entries = "".join(f"{module.rpartition('.')[2]} = {module}\n" for module in modules or MODULES)
    (package / "entry_points.txt").write_text(f"[docworker.tasks]\n{entries}")
