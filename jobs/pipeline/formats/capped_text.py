"""`CappedText`: text that is collected piece by piece and may not grow past a limit."""

from __future__ import annotations

from docworker.jobs.pipeline.draft import PipelineError, Reason


class CappedText:
    """Collects pieces; raises PipelineError (`output_limit`) as soon as they take more than `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._pieces: list[str] = []

    def add(self, piece: str) -> None:
        self._bytes += len(piece) if piece.isascii() else len(piece.encode("utf-8", "replace"))
        if self._bytes > self._most_bytes:
            raise PipelineError(
                Reason.OUTPUT_LIMIT, f"the document holds more than the {self._most_bytes} bytes of text allowed"
            )
        self._pieces.append(piece)

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def __str__(self) -> str:
        return "".join(self._pieces)
