"""What every stage stands on: storage, artifacts, budget, tracking, servers.

Imports nothing of flows, tasks or model.
"""
