"""A run's pictures: validation in a few steps."""
