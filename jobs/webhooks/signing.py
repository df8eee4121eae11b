"""`signed_headers`: the headers of a delivery, signed as Standard Webhooks says
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md)."""

import base64
import hashlib
import hmac
from collections.abc import Sequence

from docworker.db.webhooks import PREFIX


def signed_headers(message_id: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """`timestamp` is in seconds since 1970. Each secret makes a signature: a receiver takes what fits its own."""
    signatures = " ".join(signature(message_id, timestamp, body, one) for one in secrets)
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": signatures}


def signature(message_id: str, timestamp: int, body: bytes, secret: str) -> str:
    """HMAC-SHA256 of id, time and body, by the key that the secret has in base64."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    made = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(made.digest()).decode()}"
