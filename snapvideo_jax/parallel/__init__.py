"""Devices, processes and hosts: mesh, sharding rules, coordinator, logs, memory."""
