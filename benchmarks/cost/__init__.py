"""What a training step costs in the host, against one of plain training."""
