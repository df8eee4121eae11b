"""The section Documents of `docworker --help`."""
