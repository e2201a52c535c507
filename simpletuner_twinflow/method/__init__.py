"""The TwinFlow training method. Needs torch alone; formulas and sources are in docs/method.md."""
