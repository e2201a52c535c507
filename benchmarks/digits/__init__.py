"""TwinFlow on scikit-learn's digits, one change at a time: `python -m benchmarks.digits`."""
