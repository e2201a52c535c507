"""What a test watches in a run of the host beside the events of every run, or changes there; called inside the run."""
