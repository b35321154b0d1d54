"""Answers from a script or a recording, for measuring the pipeline and repeating runs."""
