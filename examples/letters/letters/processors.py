"""`Redact`: hides account numbers in every text."""

import re

from docworker.jobs.pipeline import Draft, Processor

ACCOUNT = re.compile(r"\b[A-Z]{2}\d{2}(?: ?\d{4}){4}\b")


class Redact(Processor):
    name = "redact"
    version = 1
    order = 250  # after normalize, before describe

    def process(self, draft: Draft) -> Draft:
        return draft.with_content(ACCOUNT.sub("[account]", draft.text))
