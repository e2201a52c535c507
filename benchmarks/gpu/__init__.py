"""What a training step costs on an accelerator."""
