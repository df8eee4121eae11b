"""Where documents and jobs are kept: settings, servers, sessions, tenants, documents, the ledger.

It imports nothing of `docworker.jobs` or `docworker.worker`. Its public names are listed in `__init__.pyi`, and
imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
