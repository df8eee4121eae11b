"""The processes that run jobs: Celery worker, dispatcher, beat, and the command line."""
