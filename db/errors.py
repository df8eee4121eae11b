"""`DocworkerError` and its kinds: raised on purpose; each says what is wrong, with which value, and what to do."""

from uuid import UUID

MOST_DELAY_SECONDS = 366 * 86400
"""For so long a job can be put off."""


class DocworkerError(Exception):
    """Base of every error that docworker raises on purpose."""


class ConfigurationError(DocworkerError):
    """A setting is missing, malformed, or does not fit another one."""


class NotFoundError(DocworkerError):
    """The organization, document, version or job asked for is not there for this organization."""


class UnavailableOrganizationError(DocworkerError):
    """The organization is known and not served now: it is suspended, moving, not made yet, or being dropped."""


class BacklogFullError(DocworkerError):
    """The organization has as many jobs waiting as it may: enqueue again when some of them have run."""


class MovingOrganizationError(UnavailableOrganizationError):
    """The organization arrives somewhere else just now, or has since its session was opened: open another session."""


class ApartError(DocworkerError):
    """The organizations of one transaction are not all served, or no longer in one database: make one for each."""


class InvalidArgumentError(DocworkerError):
    """A value given by the caller cannot be used."""


class InvalidNameError(InvalidArgumentError):
    """A name that no file, folder or tag can have."""


class NameTakenError(DocworkerError):
    """A live document has this name in this folder; `document_id` says which."""

    def __init__(self, message: str, document_id: UUID | None = None) -> None:
        super().__init__(message)
        self.document_id = document_id


class UnacceptedArgumentsError(DocworkerError):
    """A job of another release: its kind's arguments have changed, and this release does not take these."""


class FencedError(DocworkerError):
    """The job is not this attempt's any more: it was cancelled or taken over. What was written with it is undone."""


class BadInputError(DocworkerError):
    """What was given to be processed cannot be, and would not be another time."""


class RetryLaterError(DocworkerError):
    """Raised by a job: this attempt has failed, and the next one, if any is left, is due in so many seconds instead of
    after the usual pause. Raises InvalidArgumentError for less than 0 seconds or more than `MOST_DELAY_SECONDS`."""

    seconds: float = 0.0

    def __init__(self, message: str, *, seconds: float) -> None:
        if not 0 <= seconds <= MOST_DELAY_SECONDS:
            raise InvalidArgumentError(f"a job is tried again in 0 seconds to a year, got {seconds!r}")
        super().__init__(message)
        self.seconds = float(seconds)


class UnsupportedFileError(BadInputError):
    """A file in none of the formats that the pipeline reads."""


class EmptyFileError(BadInputError):
    """A file of no bytes."""


class ConflictError(DocworkerError):
    """The row was changed by somebody else since it was read: read it again from the master and redo."""


class PoolTimeoutError(DocworkerError):
    """No connection became free in time: the pool is too small or a session is held for too long."""


class StoreError(DocworkerError):
    """The source store cannot be read or written now: its disk, permission or network wants attention."""


class ForkedEngineError(DocworkerError):
    """Engines made in one process were used in another: call `db.cluster.engines.open_database` after the fork."""


class DemotedMasterError(DocworkerError):
    """The server given as a master is a replica now."""


class StaleMasterError(DemotedMasterError):
    """The server given as a master is an old one: another was promoted since."""
