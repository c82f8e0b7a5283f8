"""The other end of TACACS+: the device, for ``sojourn probe tacacs``, demos and tests."""

from sojourn.gateways.tacacs.peer.client import Answer, Outcome, TacacsClient

__all__ = ["Answer", "Outcome", "TacacsClient"]
