"""Servers of our own for tests, demos and small installations: PostgreSQL and Valkey out of their wheels."""
