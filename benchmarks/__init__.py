"""What the method is worth, measured; not part of the package."""
