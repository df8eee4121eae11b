"""docworker against other queues, on the same servers, in one run. Nothing here is asserted."""
