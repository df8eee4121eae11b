"""The section People of `docworker --help`."""
