"""The other end of TACACS+: the device, for ``sojourn probe tacacs``, demos and tests."""

from sojourn.gateways.tacacs.peer.client import Answer, Outcome, TacacsClient
from sojourn.gateways.tacacs.peer.link import client_tls_context

__all__ = ["Answer", "Outcome", "TacacsClient", "client_tls_context"]
