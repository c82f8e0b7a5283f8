"""The ``sojourn`` command: parse, call one library function, print, exit code."""
