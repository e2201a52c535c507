"""A run's configuration: the keys in the host's parser, what they exclude, and what is refused before a model loads."""
