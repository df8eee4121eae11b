"""What an error means is told by its SQLSTATE, on real errors of real servers where one can be had."""

import psycopg
import pytest
from sqlalchemy import exc
from sqlalchemy.orm.exc import StaleDataError

from docworker.db.errors import (
    BadInputError,
    ConfigurationError,
    ConflictError,
    DemotedMasterError,
    InvalidArgumentError,
    NotFoundError,
    PoolTimeoutError,
    StaleMasterError,
)
from docworker.db.faults import Fault, classify, mark_as_read_from_replica, mark_as_read_only, sqlstate_of
from docworker.worker.local.stack import LocalStack


def error_of(sqlstate: str) -> psycopg.Error:
    return psycopg.errors.lookup(sqlstate)(f"as if the server had said {sqlstate}")


@pytest.mark.parametrize(
    ("sqlstate", "fault"),
    [
        ("40001", Fault.SERIALIZATION),
        ("40P01", Fault.SERIALIZATION),
        ("55P03", Fault.SERIALIZATION),
        ("25006", Fault.DEMOTED),
        ("25P03", Fault.CONNECTION),
        ("08006", Fault.CONNECTION),
        ("57P01", Fault.CONNECTION),
        ("57P02", Fault.CONNECTION),
        ("57P03", Fault.CONNECTION),
        ("57014", Fault.OVERLOAD),
        ("53300", Fault.OVERLOAD),
        ("53100", Fault.OVERLOAD),
        ("22001", Fault.BAD_INPUT),
        ("22021", Fault.BAD_INPUT),
        ("23505", Fault.BAD_INPUT),
        ("23503", Fault.BAD_INPUT),
        ("54000", Fault.BAD_INPUT),
        ("42501", Fault.OUR_BUG),
        ("42P01", Fault.OUR_BUG),
        ("42601", Fault.OUR_BUG),
        ("XX000", Fault.UNKNOWN),
    ],
)
def test_sqlstate_tells_the_meaning_wrapped_or_not(sqlstate: str, fault: Fault) -> None:
    error = error_of(sqlstate)
    assert classify(error) is fault
    wrapped = exc.DBAPIError.instance("SELECT", None, error, psycopg.Error)
    assert classify(wrapped) is fault
    assert sqlstate_of(wrapped) == sqlstate


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (StaleDataError("0 rows matched"), Fault.CONFLICT),
        (ConflictError("newer"), Fault.CONFLICT),
        (PoolTimeoutError("full"), Fault.POOL),
        (exc.TimeoutError("full"), Fault.POOL),
        (DemotedMasterError("replica"), Fault.DEMOTED),
        (StaleMasterError("old"), Fault.DEMOTED),
        (BadInputError("bomb"), Fault.BAD_INPUT),
        (NotFoundError("gone"), Fault.BAD_INPUT),
        (InvalidArgumentError("no"), Fault.BAD_INPUT),
        (ConfigurationError("unset"), Fault.OUR_BUG),
        (psycopg.OperationalError("connection refused"), Fault.CONNECTION),
        (psycopg.InterfaceError("the connection is closed"), Fault.CONNECTION),
        (psycopg.ProgrammingError("cannot adapt"), Fault.OUR_BUG),
        (ValueError("whatever"), Fault.UNKNOWN),
    ],
)
def test_errors_without_sqlstate_have_a_meaning_too(error: Exception, fault: Fault) -> None:
    assert classify(error) is fault


def test_the_same_sqlstate_on_a_replica_is_a_recovery_conflict() -> None:
    for sqlstate in ("40001", "40P01"):
        error = error_of(sqlstate)
        mark_as_read_from_replica(error)
        assert classify(error) is Fault.RECOVERY_CONFLICT


def test_a_write_in_a_read_only_session_is_our_bug_and_not_a_demoted_master() -> None:
    error = error_of("25006")
    mark_as_read_only(error)
    assert classify(error) is Fault.OUR_BUG


def test_conflicts_and_infrastructure_use_up_no_attempt_and_bad_input_is_not_retried() -> None:
    used = {Fault.BAD_INPUT, Fault.OUR_BUG, Fault.UNKNOWN, Fault.LATER}
    assert {fault for fault in Fault if fault.uses_attempt} == used
    assert {fault for fault in Fault if not fault.retryable} == {Fault.BAD_INPUT, Fault.OUR_BUG}
    assert not Fault.CONFLICT.is_infrastructure
    assert not Fault.SERIALIZATION.is_infrastructure


def test_nul_and_lone_surrogates_in_a_text_are_bad_input(stack: LocalStack) -> None:
    with stack.master.connect() as connection:
        for text in ("a\x00b", "a\ud800b"):
            with pytest.raises((psycopg.Error, UnicodeError)) as caught:
                connection.execute("SELECT %s::text", [text])
            assert classify(caught.value) is Fault.BAD_INPUT


def test_two_writers_of_one_version_are_in_conflict_and_other_duplicates_are_not(stack: LocalStack) -> None:
    with stack.master.connect(autocommit=False) as connection:
        connection.execute("CREATE TEMP TABLE versions (id int CONSTRAINT pk_document_versions PRIMARY KEY)")
        connection.execute("CREATE TEMP TABLE others (id int CONSTRAINT pk_others PRIMARY KEY)")
        for table, fault in (("versions", Fault.CONFLICT), ("others", Fault.BAD_INPUT)):
            with pytest.raises(psycopg.errors.UniqueViolation) as caught, connection.transaction():
                connection.execute(f"INSERT INTO {table} VALUES (1), (1)".encode())
            assert classify(caught.value) is fault
        connection.rollback()
