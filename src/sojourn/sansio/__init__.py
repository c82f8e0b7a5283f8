"""Bytes without input and output: buffers, framing, codecs, dumps; no clock, no sockets."""
