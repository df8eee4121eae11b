"""`BrokerPassword`: what we log in to the broker with, read from a file or asked of a command for each connection."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import amqp
from amqp.sasl import PLAIN
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError

from docworker.db.passwords import PasswordError, ask_password, read_password
from docworker.db.settings import Settings


@dataclass(frozen=True)
class BrokerPassword:
    """Of one user; either `file` or `command` is given."""

    user: str | None
    file: Path | None
    file_setting: str
    command: str | None
    seconds: float
    """How long the command may take."""

    def now(self) -> str:
        """Raises PasswordError."""
        if self.file is not None:
            return read_password(self.file, setting=self.file_setting)
        user = self.user or "default"
        return ask_password(
            self.command or "",
            {"{user}": user},
            whose=user,
            seconds=self.seconds,
            setting="DOCWORKER_BROKER_PASSWORD_COMMAND",
        )


def password_of_broker(configured: Settings) -> BrokerPassword | None:
    """None where the address has the password, or nobody asks for one."""
    file, command = configured.broker_password_file, configured.broker_password_command
    if file is None and command is None:
        return None
    user = unquote(urlsplit(configured.broker_url.partition(";")[0]).username or "") or None
    return BrokerPassword(user, file, "DOCWORKER_BROKER_PASSWORD_FILE", command, configured.connect_timeout)


def password_of_sentinels(configured: Settings) -> BrokerPassword | None:
    """None where the Sentinels ask for none."""
    file, setting = configured.broker_sentinel_password_file, "DOCWORKER_BROKER_SENTINEL_PASSWORD_FILE"
    if file is None:
        return None
    return BrokerPassword(configured.broker_sentinel_user, file, setting, None, configured.connect_timeout)


class RedisCredentials(CredentialProvider):
    """As the client of Redis asks for them. What cannot be read is waited for like a broker that is away."""

    def __init__(self, password: BrokerPassword) -> None:
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = self._password.now()
        except PasswordError as error:
            raise RedisConnectionError(str(error)) from None
        return (password,) if self._password.user is None else (self._password.user, password)


class AmqpCredentials(PLAIN):
    """As the client of RabbitMQ asks for them; its user is `guest` where the address names none."""

    def __init__(self, password: BrokerPassword) -> None:
        super().__init__(password.user or "guest", None)  # type: ignore[no-untyped-call]
        self._password = password

    def start(self, connection: object) -> bytes:
        try:
            # Of an object for each link: `self` serves several of them.
            return bytes(PLAIN(self.username, self._password.now()).start(connection))
        except PasswordError as error:
            raise amqp.ConnectionError(str(error)) from None
