"""What a user may set: the sections of a run's configuration, and reading them from YAML."""

from ray_si.config.bootstrap import Bootstrap
from ray_si.config.generator import Generator, Prices
from ray_si.config.schema import Budget, RunConfig, fingerprint_of

__all__ = ["Bootstrap", "Budget", "Generator", "Prices", "RunConfig", "fingerprint_of"]
