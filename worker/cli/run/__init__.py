"""The section Run of `docworker --help`."""
