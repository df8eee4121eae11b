"""`Gate`: who may see the console and who may act, by the two tokens; sessions as signed cookies.

Keys are derived from the tokens: whoever changes one ends the sessions that were begun with it, and several processes
with the same tokens know each other's sessions. That somebody has logged out is known to the process that was told.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from docworker.db.errors import ConfigurationError
from docworker.db.passwords import PasswordError, read_password
from docworker.db.settings import Settings

_LEAST_CHARACTERS = 16
_MOST_ENDED = 10_000
_MOST_COOKIE_CHARACTERS = 4_000


class Role(StrEnum):
    """Whoever has the operator's token may do what a viewer may."""

    VIEWER = "viewer"
    OPERATOR = "operator"

    def may(self, needed: "Role") -> bool:
        """Whether it is enough where `needed` is asked for."""
        return self is needed or self is Role.OPERATOR


@dataclass(frozen=True)
class Login:
    """A session of the console. `until` is in seconds since 1970; `form_token` is what its forms have to send."""

    id: str
    role: Role
    until: float
    form_token: str


class Tokens:
    """The tokens as the settings have them, read anew each time from files that may change; or one made for this
    process alone."""

    def __init__(self, settings: Settings, *, made: str | None = None) -> None:
        self._settings = settings
        self._made = made

    @property
    def is_set(self) -> bool:
        """Whether the settings name any."""
        names = [f"console_{role}_token" for role in Role]
        return any(getattr(self._settings, f"{name}{end}") is not None for name in names for end in ("", "_file"))

    def of(self, role: Role) -> str | None:
        """None where a role has none: nobody has it. Raises PasswordError for a file that has none."""
        name = f"console_{role}_token"
        if (path := getattr(self._settings, f"{name}_file")) is not None:
            setting = f"DOCWORKER_{name.upper()}_FILE"
            read = read_password(path, setting=setting)
            if len(read) < _LEAST_CHARACTERS:
                raise PasswordError(f"{setting}: what is in {path} has less than {_LEAST_CHARACTERS} characters")
            return read
        if (token := getattr(self._settings, name)) is not None:
            return str(token.get_secret_value())
        return self._made if role is Role.OPERATOR else None


def tokens_of(settings: Settings) -> Tokens:
    """Raises ConfigurationError where there are none: the console is closed then."""
    tokens = Tokens(settings)
    if not tokens.is_set:
        raise ConfigurationError(
            "the console has no token: set DOCWORKER_CONSOLE_OPERATOR_TOKEN or DOCWORKER_CONSOLE_VIEWER_TOKEN, "
            "or the same with _FILE, to 16 characters or more that nobody can guess"
        )
    return tokens


class Gate:
    """Begins and ends sessions, and knows them by their cookies."""

    def __init__(self, tokens: Tokens, *, seconds: float) -> None:
        self._tokens = tokens
        self._seconds = seconds
        self._ended: OrderedDict[str, float] = OrderedDict()

    def role_of(self, token: str) -> Role | None:
        """Whose token it is; all are compared, each in a time that does not depend on it."""
        given, found = _digest(token), None
        for role in Role:
            expected = self._tokens.of(role)
            if expected is not None and hmac.compare_digest(given, _digest(expected)):
                found = role
        return found

    def begin(self, role: Role) -> str:
        """The cookie of a new session."""
        return self.sealed(role, {"id": secrets.token_urlsafe(16), "until": time.time() + self._seconds})

    def known(self, cookie: str) -> Login | None:
        """The session of a cookie that is still good."""
        for role in Role:
            told = self.unsealed(role, cookie)
            if told is not None and "id" in told:
                if told["until"] <= time.time() or told["id"] in self._ended:
                    return None
                return Login(told["id"], role, told["until"], self._signature(role, f"form {told['id']}"))
        return None

    def end(self, login: Login) -> None:
        """Its cookie is good no more."""
        self._ended[login.id] = login.until
        while len(self._ended) > _MOST_ENDED:
            self._ended.popitem(last=False)

    def sealed(self, role: Role, told: Mapping[str, Any]) -> str:
        """A value for a cookie that only this role's token opens."""
        text = base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")
        return f"{text}.{self._signature(role, text)}"

    def unsealed(self, role: Role, value: str) -> Mapping[str, Any] | None:
        """What was sealed; None for what was not."""
        if len(value) > _MOST_COOKIE_CHARACTERS or not value.isascii() or self._tokens.of(role) is None:
            return None
        text, _, signature = value.rpartition(".")
        if not hmac.compare_digest(signature, self._signature(role, text)):
            return None
        told: Mapping[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return told

    def _signature(self, role: Role, text: str) -> str:
        key = hmac.digest((self._tokens.of(role) or "").encode(), f"docworker console {role}".encode(), "sha256")
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
