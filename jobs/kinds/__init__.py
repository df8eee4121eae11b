"""The kinds of jobs that docworker brings."""
