"""The worker: Celery's consumer with our pool, keeper of leases, shutdown and watchdog."""
