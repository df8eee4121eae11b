"""What must hold of documents, jobs and their tables in an installation that runs, and whether it does."""
