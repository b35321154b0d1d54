"""Finished runs looked at again, offline: verified, or decided anew at other thresholds."""
