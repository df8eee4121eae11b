"""The embedded stack: a PostgreSQL master, its replicas, a Valkey broker, and all our processes.

For development, demos and tests on one machine. Production runs on servers of its own.
"""
