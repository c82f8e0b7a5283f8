"""Bytes without input and output: buffers, framing, codecs; no clock, no sockets."""
