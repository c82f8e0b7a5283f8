"""Sojourn keeps long conversations alive: session servers on one core."""

__version__ = "0.1.0.dev0"
