"""Signatures are those of Standard Webhooks: of its libraries' own example, and reckoned here once more."""

import base64
import hashlib
import hmac

from docworker.jobs.webhooks.signing import signature, signed_headers


def test_the_example_of_standard_webhooks_has_its_signature() -> None:
    headers = signed_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_secret_signs_and_id_time_and_body_are_all_in_it() -> None:
    old, new = (f"whsec_{base64.b64encode(key).decode()}" for key in (b"o" * 24, b"n" * 32))
    body = "{“ü”}".encode()
    expected = [
        "v1," + base64.b64encode(hmac.new(key, b"a.1." + body, hashlib.sha256).digest()).decode()
        for key in (b"n" * 32, b"o" * 24)
    ]
    assert signed_headers("a", 1, body, [new, old])["webhook-signature"] == " ".join(expected)
    others = {signature(*one, new) for one in [("b", 1, body), ("a", 2, body), ("a", 1, body + b" ")]}
    assert len(others | {expected[0]}) == 4
