"""The console: pages for those who run docworker, in a browser; `console_app` is all of it."""

from docworker.worker.console.application import console_app

__all__ = ["console_app"]
