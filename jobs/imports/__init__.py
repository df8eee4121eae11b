"""A folder of files becomes documents, and a job for each."""
