"""A run's training: the objective in the host's trainer, on the host's models."""
