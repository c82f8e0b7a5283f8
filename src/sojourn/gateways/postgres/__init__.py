"""PostgreSQL: a session server between clients and clusters, speaking protocol 3.0 and 3.2 on both sides."""
