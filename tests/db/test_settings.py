"""Settings that the programs behind them could not carry are refused, with the variable, the value and what to do."""

import pytest

from docworker.db.errors import ConfigurationError
from docworker.db.settings import settings


@pytest.mark.parametrize(
    "value", ["Präfix:", "\N{GRINNING FACE}", "a\tb", "a\nb", "a\x06\x16b", "a*", "a?", "a[b]", "\\"]
)
def test_a_key_prefix_that_the_brokers_client_cannot_carry_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("DOCWORKER_BROKER_KEY_PREFIX", value)
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="DOCWORKER_BROKER_KEY_PREFIX: use printable ASCII") as refused:
        settings()
    assert repr(value) in str(refused.value)


@pytest.mark.parametrize("value", ["", "one:two:", "{hash tag}", "a b'\"#%s/.", "x" * 2000])
def test_any_other_key_prefix_is_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DOCWORKER_BROKER_KEY_PREFIX", value)
    settings.cache_clear()
    assert settings().broker_key_prefix == value


@pytest.mark.parametrize("value", ["", "a\x06\x16b", "a\nb"])
def test_a_queue_that_the_brokers_client_cannot_carry_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DOCWORKER_QUEUE", value)
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="DOCWORKER_QUEUE"):
        settings()


def test_a_sentinel_address_needs_the_name_of_what_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCWORKER_BROKER_URL", "sentinel://:secret@one:26379/0;sentinel://:secret@two:26379/0")
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="DOCWORKER_BROKER_SENTINEL_MASTER is not set") as refused:
        settings()
    assert "secret" not in str(refused.value)

    monkeypatch.setenv("DOCWORKER_BROKER_SENTINEL_MASTER", "mymaster")
    settings.cache_clear()
    assert settings().broker_sentinel_master == "mymaster"
