"""The gateways: one package per protocol; none imports another."""
