"""What a film shows (structure, contrast, state of a procedure, stents), read off its pixels by a small classifier."""
