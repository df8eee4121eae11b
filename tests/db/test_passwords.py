"""Where passwords come from, what is said when there is none, and that nothing says what they are."""

import asyncio
from pathlib import Path

import pytest

from docworker.db.cluster.bounded_connection import BoundedAsyncConnection, BoundedConnection
from docworker.db.cluster.connections import connect_arguments
from docworker.db.errors import ConfigurationError
from docworker.db.faults import Fault, classify
from docworker.db.passwords import PasswordError, with_password
from docworker.db.settings import Settings, settings

URL = "postgresql://reader@db.example.org:6432/docworker"


def password_of(url: str = URL, **given: object) -> object:
    configured = Settings.model_validate(given)
    return with_password(connect_arguments(url, configured, "tests")).get("password")


def test_a_file_is_named_after_the_role_and_read_each_time(tmp_path: Path) -> None:
    arguments = connect_arguments(URL, Settings(password_directory=tmp_path), "tests")
    for password in ("first", " with 'quotes', spaces \\ "):
        (tmp_path / "reader").write_text(f"{password}\n")
        assert with_password(arguments)["password"] == password
    assert password_of("postgresql://reader:own@db/docworker", password_directory=tmp_path) == "own"
    assert password_of("postgresql://reader@db/docworker?passfile=/mine", password_directory=tmp_path) is None


def test_a_command_is_told_whose_password_it_is() -> None:
    assert password_of(password_command="printf 'token %s %s %s' {user} {host} {port}") == (
        "token reader db.example.org 6432"
    )
    assert password_of("postgresql://x;id@/docworker", password_command="printf %s {user}") == "x;id", "no shell"


@pytest.mark.parametrize("text", [None, "", "\n", "secret\nsecret\n", "secret\x00", "s" * 70_000])
def test_a_file_without_a_password_is_told_and_waited_for(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "reader").write_text(text)
    with pytest.raises(PasswordError, match=r"DOCWORKER_PASSWORD_DIRECTORY: .*reader") as failed:
        password_of(password_directory=tmp_path)
    assert "secret" not in str(failed.value)
    assert classify(failed.value) is Fault.CONNECTION


def test_each_kind_of_connection_asks_for_its_password(tmp_path: Path) -> None:
    arguments = connect_arguments(URL, Settings(password_directory=tmp_path), "tests")
    with pytest.raises(PasswordError):
        BoundedConnection.connect(**arguments)
    with pytest.raises(PasswordError):
        asyncio.run(BoundedAsyncConnection.connect(**arguments))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sh -c 'echo secret; exit 3'", "status 3"),
        ("sh -c 'echo secret >&2'", "is empty|no password"),
        ("/nowhere/to-be-found secret", "cannot be run"),
        ("sh -c 'echo secret; exec sleep 60'", "within 2 s"),
    ],
)
def test_a_command_without_a_password_is_told_and_what_it_printed_is_not(command: str, said: str) -> None:
    with pytest.raises(PasswordError, match=said) as failed:
        password_of(password_command=command, connect_timeout=2)
    assert "DOCWORKER_PASSWORD_COMMAND" in str(failed.value)
    assert "secret" not in str(failed.value)


def test_one_place_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCWORKER_PASSWORD_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("DOCWORKER_PASSWORD_COMMAND", "echo secret")
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="both set"):
        settings()
    monkeypatch.setenv("DOCWORKER_PASSWORD_COMMAND", "echo 'secret")
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="DOCWORKER_PASSWORD_COMMAND: not a command") as refused:
        settings()
    assert "secret" not in str(refused.value)
