"""Panels on MQTT: their state, what happens, commands, and Home Assistant's discovery of all that."""
