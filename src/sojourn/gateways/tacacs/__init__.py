"""TACACS+: RFC 8907 on TCP and RFC 9887 on TLS 1.3."""
