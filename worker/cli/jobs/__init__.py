"""The section Jobs of `docworker --help`."""
