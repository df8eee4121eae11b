"""What is done to documents: kinds of jobs, how they are enqueued and run, and the pipeline.

It imports nothing of `docworker.worker`. Its public names are listed in `__init__.pyi`, and imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
