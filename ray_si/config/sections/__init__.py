"""The sections of a configuration, each frozen and with a docstring for every field."""
