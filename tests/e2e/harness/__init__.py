"""What the end-to-end scenarios share: real processes on free ports, apps that record what reaches them, raw clients.

Read processes.py first (how everything ends), then mesh.py (an identity provider and sidecars), then any scenario.
"""
