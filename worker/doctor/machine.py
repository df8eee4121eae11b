"""`examine_machine`: what of this machine docworker uses: the kernel's sandbox, the store, directories, Tesseract."""

import errno
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from docworker.db.documents.store import source_store
from docworker.db.errors import DocworkerError
from docworker.db.models.base import new_id
from docworker.db.settings import Settings
from docworker.jobs.pipeline import confinement, tesseract
from docworker.worker.doctor.finding import Finding, error, warning

_LEAST_FREE = 0.05
"""Of a disk."""
_PROBE_SECONDS = 10


def examine_machine(configured: Settings) -> Iterator[Finding]:
    """Writes a file to the store and to the state directory, and removes it."""
    yield from _sandbox(configured)
    yield from _store(configured)
    yield from _state_directory(configured)
    yield from _tesseract(configured)


def _sandbox(configured: Settings) -> Iterator[Finding]:
    offer = confinement.offered()
    if offer.is_whole:
        return
    remedy = "use a kernel with Landlock (5.13 or newer) and seccomp, and a container that lets both through"
    fault = f"parsers of strangers' files cannot be confined: {offer}"
    found = error if configured.sandbox == "required" else warning
    yield found("DOCWORKER_SANDBOX", fault, remedy)


def _store(configured: Settings) -> Iterator[Finding]:
    subject, nobody, content = "DOCWORKER_STORE", new_id(), os.urandom(64)
    store = source_store()
    if "://" not in store.url and not Path(store.url).is_absolute():
        yield warning(
            subject,
            f"{store.url} is a place relative to where a process was started: here {store.place}, elsewhere another",
            "set an absolute path, or the address of an object store, the same for all who import files and who work",
        )
    try:
        key = store.put(nobody, io.BytesIO(content)).key
        try:
            if store.get(key) != content:
                yield error(subject, "does not give back what was written", "use another store")
        finally:
            store.delete_all(nobody)
    except (DocworkerError, OSError) as fault:
        is_full = getattr(fault.__cause__, "errno", None) in {errno.ENOSPC, errno.EDQUOT}
        remedy = "make room there, or move it" if is_full else "make it, and let the user of docworker write there"
        yield error(subject, str(fault), remedy)
        return
    if "://" not in configured.store:
        yield from _room(subject, Path(configured.store))


def _state_directory(configured: Settings) -> Iterator[Finding]:
    subject, directory = "DOCWORKER_STATE_DIRECTORY", configured.state_directory
    there = next(one for one in (directory, *directory.absolute().parents) if one.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there):
            pass
    except OSError as fault:
        yield error(subject, f"{there} cannot be written: {fault.strerror}", "let the user of docworker write there")
        return
    yield from _room(subject, there)


def _room(subject: str, directory: Path) -> Iterator[Finding]:
    usage = shutil.disk_usage(directory)
    if usage.free < _LEAST_FREE * usage.total:
        yield warning(
            subject,
            f"{usage.free / usage.total:.0%} of the disk of {directory} is free ({usage.free / 1e9:.1f} GB)",
            "make room, or move it",
        )


def _tesseract(configured: Settings) -> Iterator[Finding]:
    """Without one, documents say that they need OCR; with one, its languages have to be there."""
    if not tesseract.is_installed():
        return
    listed = subprocess.run(
        ["tesseract", "--list-langs"],  # noqa: S607 - the one that jobs find as well
        capture_output=True,
        text=True,
        check=False,
        timeout=_PROBE_SECONDS,
    )
    if missing := sorted(set(configured.ocr_languages.split("+")) - set(listed.stdout.split())):
        yield error(
            "DOCWORKER_OCR_LANGUAGES",
            f"Tesseract has no data for {', '.join(missing)}",
            f"install them (Debian: {' '.join(f'tesseract-ocr-{one}' for one in missing)}), or set it to what is there",
        )
