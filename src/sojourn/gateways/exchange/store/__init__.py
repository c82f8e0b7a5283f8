"""The store in PostgreSQL: :class:`~.postgres.PostgresStore`, one module per table behind it.

Imported only where there is such a database: asyncpg comes with the extra ``exchange``.
"""
