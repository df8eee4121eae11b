"""`recognize`: the text in a picture, by Tesseract, in a process of its own that is bound to limits.

It is given pictures of ours only, rendered in the sandbox: no file of a stranger reaches it.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from contextlib import suppress

from docworker.db.errors import ConfigurationError
from docworker.jobs.pipeline.draft import PipelineError, Reason

_NO_LANGUAGE = b"Error opening data file"


def is_installed() -> bool:
    """Whether there is a Tesseract on the path of this process."""
    return shutil.which("tesseract") is not None


def recognize(picture: bytes, *, languages: str, seconds: float, memory_bytes: int) -> str:
    """The text in a picture, a PGM file, in languages by Tesseract's names, such as `eng+deu`.

    `seconds` bound its computing time and the time until its answer. Raises PipelineError when the picture takes more
    than that, or ends it, and ConfigurationError when Tesseract or a language is not installed.
    """
    program = shutil.which("tesseract")
    if program is None:
        raise ConfigurationError("there is no tesseract on the path: install it (Debian: tesseract-ocr)")
    environment = {name: os.environ[name] for name in ("TESSDATA_PREFIX",) if name in os.environ}
    with subprocess.Popen(  # noqa: S603 -- a program of the system, and our own arguments
        [program, "stdin", "stdout", "-l", languages],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env=environment | {"OMP_THREAD_LIMIT": "1", "LC_ALL": "C"},
        start_new_session=True,
    ) as process:
        try:
            _bind(process.pid, seconds, memory_bytes)
            text, errors = process.communicate(picture, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise PipelineError(
                Reason.WALL_CLOCK_LIMIT, f"recognising a page takes longer than the {seconds:g} s allowed"
            ) from None
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise _failure(process.returncode, errors, languages)
    return text.decode("utf-8", "replace")


def _bind(pid: int, seconds: float, memory_bytes: int) -> None:
    """It waits for its input meanwhile; where it has ended already, what it said is to be heard."""
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.prlimit(pid, resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
            resource.prlimit(pid, limit, (0, 0))


def _failure(returncode: int, errors: bytes, languages: str) -> Exception:
    if _NO_LANGUAGE in errors:
        return ConfigurationError(
            f"Tesseract has no data for {languages!r}: install them (Debian: tesseract-ocr-deu), or set "
            "DOCWORKER_OCR_LANGUAGES to what is there"
        )
    if -returncode in (signal.SIGXCPU, signal.SIGKILL):
        return PipelineError(Reason.CPU_LIMIT, "recognising a page takes more than the computing time allowed")
    if b"bad_alloc" in errors:
        return PipelineError(Reason.MEMORY_LIMIT, "recognising a page takes more than the memory allowed")
    return PipelineError(Reason.CRASHED, f"Tesseract ended with {returncode} on a page")
