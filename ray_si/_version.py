"""The versions, where nothing else has to be imported for them."""

__version__ = "0.1.0"

READING = 5
"""Number of the rules by which answers are read; a run keeps under which its own were.

Grows with every change that reads some answer differently. Runs without one were read by the first.
"""
