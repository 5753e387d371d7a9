"""What keeps a run going: checkpoints, preemption, watchdog, goodput, metrics."""
