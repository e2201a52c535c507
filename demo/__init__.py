"""The demo: a tiny pre-trained SD3 pipeline, a small image set, a metric and pictures."""
