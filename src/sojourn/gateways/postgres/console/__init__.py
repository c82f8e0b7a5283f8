"""The admin console: a database that is not there, spoken to with psql, drivers and exporters made for PgBouncer."""
