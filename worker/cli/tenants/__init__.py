"""The section Tenants of `docworker --help`."""
