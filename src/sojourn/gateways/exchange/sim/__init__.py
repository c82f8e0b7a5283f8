"""The simulator's protocol ``sim.v1``: who serves it, and who talks to it."""
