"""docworker against the same job written the usual way, on the same servers, in one run. Nothing here is asserted."""
