"""Folders, documents and their versions, search, the source bytes, and what is removed when."""
