"""Spawners: how a simulator comes to be and ends, one driver per place where it can run.

They know nothing of sessions, owners and what is traded: a :class:`~.spawner.SimulatorSpec` goes in, an endpoint comes
out.
"""
