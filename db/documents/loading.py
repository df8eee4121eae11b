"""`with_folder`, `with_people`, `with_tags`, `with_versions`: what to load along with documents.

Nothing is loaded by an attribute that is looked at: every relationship raises where it was not loaded. These are for
`select(Document).options(…)`: a single object comes with a join, a collection with a statement of its own for all
documents at once, so the number of statements does not depend on how many documents there are.
"""

from sqlalchemy.orm import defer, joinedload, selectinload
from sqlalchemy.orm.interfaces import ORMOption

from docworker.db.models import Document, DocumentContributor, DocumentVersion


def with_folder() -> ORMOption:
    """`folder`. No further statement."""
    return joinedload(Document.folder)


def with_people() -> tuple[ORMOption, ORMOption]:
    """`owner`, and `contributors` with their `user`. One further statement."""
    return joinedload(Document.owner), selectinload(Document.contributors).joinedload(DocumentContributor.user)


def with_tags() -> ORMOption:
    """`tags`, by name. One further statement."""
    return selectinload(Document.tags)


def with_versions(*, texts: bool = False) -> ORMOption:
    """`versions`, newest first; without their texts, which raise then. One further statement."""
    versions = selectinload(Document.versions)
    return versions if texts else versions.options(defer(DocumentVersion.content, raiseload=True))
