"""Where documents and jobs are kept: settings, engines, sessions, tables, ledger.

It imports nothing of `jobs` or `worker`.
"""
