"""`reason_of`: why there is no link to the broker, and for what its settings say, which of them to look at."""

import re

_CLIENT = re.compile(r"<redis\.client\.Redis\(.*?\bhost=([^,]+),port=(\d+),.*?\)>\)>\)>", re.DOTALL)
"""How Redis's client calls a Sentinel that did not answer: by all its parameters."""


def reason_of(error: BaseException) -> str:
    """On one line, as the client says it; for certificates and Sentinels, with what to do."""
    text = " ".join(_CLIENT.sub(r"\1:\2", str(error)).split()) or type(error).__name__
    if text.startswith("No master found"):
        return (
            f"{text}: DOCWORKER_BROKER_URL has to name Sentinels, by sentinels:// if they speak TLS, "
            "DOCWORKER_BROKER_CA_FILE who has signed their certificates, DOCWORKER_BROKER_SENTINEL_MASTER what they "
            "watch, and DOCWORKER_BROKER_SENTINEL_PASSWORD_FILE their password if they ask for one"
        )
    if "CERTIFICATE_VERIFY_FAILED" not in text:
        return text
    if "Hostname mismatch" in text or "IP address mismatch" in text:
        return f"{text}: DOCWORKER_BROKER_URL has to name the host as its certificate does"
    return f"{text}: give who has signed the broker's certificate in DOCWORKER_BROKER_CA_FILE"
