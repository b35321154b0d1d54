"""The scores, a module for each kind."""
