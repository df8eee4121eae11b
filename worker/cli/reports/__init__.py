"""The section Reports of `docworker --help`."""
