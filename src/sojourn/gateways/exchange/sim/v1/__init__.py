"""Version 1 of the protocol: ``simulator.proto``, and what the build generates from it (``hatch_build.py``)."""
