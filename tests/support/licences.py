"""Refuses packages with a licence that is not ALLOWED: of all that is installed here, by what each says of itself.

Run as `python -m tests.support.licences`. What a package says in its own words stands in READ, with what was meant.
"""

import re
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import Distribution, distributions
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "PSF-2.0",
    "Unlicense",
    "Zlib",
    # Libraries that are used as they are, each a package of its own, which may be replaced.
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "MPL-2.0",
}
CLASSIFIED = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
READ = {
    "kubernetes-validate": ("Apache", "Apache-2.0"),
    "protobuf": ("3-Clause BSD License", "BSD-3-Clause"),
    # PDFium's and what it is built with: BSD, Apache, MIT and the like, one text each in the wheel.
    "pypdfium2": ("BSD-3-Clause, Apache-2.0, dependency licenses", "BSD-3-Clause AND Apache-2.0"),
}
"""What a package says in words of its own, and what it means; looked at again when the words change."""

_CLASSIFIER = "License :: OSI Approved :: "


def refused(installed: Iterable[Distribution]) -> list[str]:
    """One line for each package whose licence is not allowed, or not told."""
    return sorted({line for one in installed if (line := _objection(one)) is not None})


def _objection(package: Distribution) -> str | None:
    name, said = package.metadata["Name"], _said(package)
    if not said:
        return f"{name} {package.version} tells no licence"
    try:
        expression = _licensing().parse(said, validate=True)
    except ExpressionError:
        return f"{name} {package.version} has a licence in words of its own: {said!r}"
    return None if _is_allowed(expression) else f"{name} {package.version} is under {expression}, which is not allowed"


def _said(package: Distribution) -> str:
    """As an expression of SPDX where that can be known; several classifiers are taken to hold all of them."""
    metadata = package.metadata
    if expression := _told(package, "License-Expression"):
        return expression
    classifiers = [one for one in metadata.get_all("Classifier") or () if one.startswith(_CLASSIFIER)]
    if classifiers:
        names = [one.removeprefix(_CLASSIFIER) for one in classifiers]
        return " AND ".join(CLASSIFIED.get(one, one) for one in names)
    words = _told(package, "License")
    known, meant = READ.get(re.sub(r"[-_.]+", "-", metadata["Name"]).lower(), (None, ""))
    return meant if words == known else words


def _told(package: Distribution, field: str) -> str:
    (first, *_) = package.metadata.get_all(field) or [""]
    return str(first).strip()


@cache
def _licensing() -> Any:
    # Of all licences and exceptions that SPDX knows: a second to make.
    return get_spdx_licensing()


def _is_allowed(expression: Any) -> bool:
    parts = [_is_allowed(one) for one in getattr(expression, "args", ())]
    if not parts:
        return str(expression) in ALLOWED
    return any(parts) if expression.operator.strip().upper() == "OR" else all(parts)


if __name__ == "__main__":
    found = refused(distributions())
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)  # noqa: T201 - its output
    sys.exit(bool(found))
