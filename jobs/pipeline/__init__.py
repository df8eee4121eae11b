"""From a source document to its processed text: extract, normalize, describe, and what users add. No database."""
