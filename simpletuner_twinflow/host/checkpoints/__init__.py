"""What a run leaves on disk: checkpoints to resume from, and the weights to draw with."""
