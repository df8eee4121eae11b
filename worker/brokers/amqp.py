"""`TlsTransport`: kombu's transport for amqps:// addresses, which expects of each node a certificate of its own."""

from typing import Any

from kombu.transport.pyamqp import SSLTransport


class TlsTransport(SSLTransport):
    """Left to itself, kombu expects the first node's certificate of every other node as well."""

    client: Any

    def establish_connection(self) -> Any:
        self.client.ssl = {**self.client.ssl, "server_hostname": self.client.hostname or "localhost"}
        return super().establish_connection()  # type: ignore[no-untyped-call]
