"""`PostgresUrl`, `BrokerUrl`: the addresses of servers, as settings give them; `without_secrets` is what may be shown.

An address that is not understood may hold a password anywhere, so no message quotes any of it.
"""

import re
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import AfterValidator, BeforeValidator

BROKER_SCHEMES = ("redis", "rediss", "sentinel", "sentinels", "amqp", "amqps")
HIDDEN = "***"
_ESCAPE = "write / ? # @ : % and spaces in a user or a password as %2F %3F %23 %40 %3A %25 %20"
_OF_A_LOGIN = frozenset({"user", "password", "passfile", "sslcert", "sslkey", "sslpassword"})
_SECRET = re.compile(r"pass|secret|token|key|credential", re.IGNORECASE)


def _postgresql_url(value: str) -> str:
    if not value.startswith(("postgresql://", "postgres://")):
        raise ValueError("not a postgresql:// address")
    try:
        address = conninfo_to_dict(value)
    except ProgrammingError as error:
        # From the first quotation mark on, libpq repeats what it was given.
        reason = str(error).split('"')[0].strip(" :\n")
        raise ValueError(f"not a PostgreSQL address that libpq understands ({reason}): {_ESCAPE}") from None
    if any("@" in host for host in _listed(address.get("host"))):
        raise ValueError(f"its host holds an @: {_ESCAPE}")
    if not all(port.isascii() and port.isdigit() for port in _listed(address.get("port"))):
        raise ValueError(f"its port is no number: {_ESCAPE}")
    return value


def _listed(value: object) -> list[str]:
    """Of several hosts, or their ports; one that is left out means the default."""
    return [one for one in str(value or "").split(",") if one]


def _broker_url(value: str) -> str:
    for number, part in enumerate(value.split(";")):
        try:
            address = urlsplit(part)
            _ = address.port
        except ValueError:
            raise ValueError(f"its host or port cannot be read: {_ESCAPE}") from None
        if address.scheme not in BROKER_SCHEMES or (not address.netloc and number == 0):
            raise ValueError("not a redis://, rediss://, sentinel://, sentinels://, amqp:// or amqps:// address")
        if "@" in (address.hostname or ""):
            raise ValueError(f"its host holds an @: {_ESCAPE}")
    return value


def scheme_of(address: str) -> str:
    """What an address begins with, in lower case; of several, the first one's."""
    return urlsplit(address).scheme


def split_on_spaces(value: Any) -> Any:
    """What is written as one text, separated by spaces, as a list."""
    return value.split() if isinstance(value, str) else value


def with_login_of(address: str, other: str) -> str:
    """A PostgreSQL address, with who logs in, and how he shows that it is he, taken from another one."""
    place: dict[str, Any] = {k: v for k, v in conninfo_to_dict(address).items() if k not in _OF_A_LOGIN}
    login: dict[str, Any] = {k: v for k, v in conninfo_to_dict(other).items() if k in _OF_A_LOGIN}
    return make_conninfo(**place, **login)


PostgresUrl = Annotated[str, AfterValidator(_postgresql_url)]
PostgresUrls = Annotated[tuple[PostgresUrl, ...], BeforeValidator(split_on_spaces)]
BrokerUrl = Annotated[str, AfterValidator(_broker_url)]


def without_secrets(address: str) -> str:
    """An address as people and logs may see it: without passwords, and without what is called like a secret. Several
    are separated by semicolons. What is no URL is shown as it is if it is a plain path, and else not at all."""
    return ";".join(map(_without_secrets, address.split(";")))


def _without_secrets(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    if not separator:
        return HIDDEN if re.search(r"[=@]", address) else address
    # A password that was not escaped may hold what ends a host: all before the last @ is user and password.
    before, at, place = rest.rpartition("@")
    user, colon, _ = before.partition(":")
    shown = f"{user}{colon}{HIDDEN if colon else ''}{at}"
    parts: SplitResult | None
    try:
        parts = urlsplit(f"{scheme}://{place}")
    except ValueError:
        return f"{scheme}://{HIDDEN}"
    query = "&".join(map(_parameter, parts.query.split("&"))) if parts.query else ""
    return f"{scheme}://{shown}{parts.netloc}{parts.path}" + (f"?{query}" if query else "")


def _parameter(given: str) -> str:
    name, equals, _ = given.partition("=")
    return f"{name}{equals}{HIDDEN}" if equals and _SECRET.search(name) else given
