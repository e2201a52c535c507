"""The only package that imports SimpleTuner. Each module is one concern; `pyproject.toml` names what it waits for."""
