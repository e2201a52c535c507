"""Finished or running trainings side by side: what they left on disk, read back, as one page and PNGs."""
