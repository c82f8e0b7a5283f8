"""The ways in for operators: the HTTP API, metrics, health checks and the local control socket."""
