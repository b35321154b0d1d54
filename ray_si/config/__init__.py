"""What a user may set: the sections of a run's configuration, and reading them from YAML."""

from ray_si.config.schema import RunConfig, fingerprint_of
from ray_si.config.sections.bootstrap import Bootstrap
from ray_si.config.sections.budget import Budget
from ray_si.config.sections.generator import Generator, Prices

__all__ = ["Bootstrap", "Budget", "Generator", "Prices", "RunConfig", "fingerprint_of"]
