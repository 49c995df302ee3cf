"""What `lmft doctor` looks at: software, device, memory, disks, hub and MLflow store.

Nothing is written, and what does not answer within seconds counts as out of reach.
"""
