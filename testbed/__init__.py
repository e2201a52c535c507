"""What demo, benchmarks and tests share: tiny pipelines, and runs of the real trainer; not part of the package."""
