"""The core: sockets, tasks, sessions, clock and TLS; knows no protocol."""
