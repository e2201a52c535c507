"""The TwinFlow training method; needs torch alone."""
