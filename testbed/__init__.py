"""What demo, benchmarks and tests share; not part of the package."""
