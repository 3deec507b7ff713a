"""What a run needs before it is paid for: memory by switch, speed, hours, bytes of data and of checkpoints. No GPU is touched."""
