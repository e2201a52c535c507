"""How near few-step samples come in a given time: ours, plain training, SimpleTuner's own and the reference recipe."""
