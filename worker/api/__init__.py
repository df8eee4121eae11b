"""The HTTP API for callers that are no Python: documents in, texts and states out, search; `api_app` is all of it."""

from docworker.worker.api.application import api_app

__all__ = ["api_app"]
