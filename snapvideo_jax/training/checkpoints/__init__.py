"""What a run writes to disk in order to resume: checkpoints and EMA snapshots."""
