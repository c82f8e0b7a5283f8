"""The reference simulator: a small exchange with a real limit order book, for one user session.

Pure and deterministic: the same settings, seed and orders give the same events. It knows no session, no socket and no
clock but the one that is handed in; :mod:`sojourn.gateways.exchange.simulator` serves it over gRPC.
"""
