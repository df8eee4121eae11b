"""`unknown_settings`, `settings_in_force`: what was given as settings, and what is in force, as it may be shown."""

import json
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from docworker.db.addresses import HIDDEN, without_secrets
from docworker.db.settings import PREFIX, Addresses, Settings


def unknown_settings(names: Iterable[str]) -> dict[str, str | None]:
    """Those of these environment variables that are called like settings and are none, each with the setting that is
    probably meant."""
    known = {name.upper() for name in Settings.model_fields}
    unknown = sorted({name for name in names if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known})
    return {name: _meant(name.removeprefix(PREFIX), known) for name in unknown}


def _meant(name: str, known: Iterable[str]) -> str | None:
    near = get_close_matches(name, known, n=1)
    return f"{PREFIX}{near[0]}" if near else None


class InForce(NamedTuple):
    """A setting as it may be shown, and whether it was given or is the default."""

    name: str
    value: str
    is_given: bool


def settings_in_force(configured: Settings) -> Sequence[InForce]:
    """All settings, in the order in which they are declared, without secrets."""
    return [
        InForce(f"{PREFIX}{name.upper()}", _shown(name, getattr(configured, name)), name in configured.model_fields_set)
        for name in Settings.model_fields
    ]


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("password_command"):
        return " ".join([value.split()[0], *(HIDDEN for _ in value.split()[1:])])
    if isinstance(value, dict):
        return json.dumps({cluster: _shown_addresses(addresses) for cluster, addresses in value.items()})
    if isinstance(value, tuple):
        return " ".join(without_secrets(str(one)) for one in value)
    return without_secrets(value) if name.endswith("_url") or name == "store" else str(value)


def _shown_addresses(addresses: Addresses) -> dict[str, str]:
    return {name: _shown(name, value) for name, value in addresses if value}
