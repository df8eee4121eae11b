"""What producers, writers of jobs and applications need; by subject it is in `docworker.db` and `docworker.jobs`.

Each name is imported when it is first used, so that `import docworker` reads no setting and loads no library. The list
of them is `__init__.pyi`. What is not named there, or in the lists of those two, is internal and may change.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
