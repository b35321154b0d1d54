"""Every error that ray_si raises on purpose, in one tree.

RaySIError
├── UserError              the caller can mend it; the CLI prints one line and exits with status 2
│   ├── ConfigError          an unknown key, an impossible value, an unreadable configuration
│   ├── SeedError            seed tasks missing, malformed or duplicated
│   ├── RunError             a run folder that is foreign, damaged, or of another configuration
│   │   └── DamageError        a run whose header is not what was written
│   ├── StorageError         a folder or bucket that is not there, or refuses what is asked of it
│   ├── HubError             a dataset hub that refuses what is asked of it
│   ├── CorpusError          a file of texts that cannot be read, or its output not be written
│   ├── TaskError            evaluation tasks or ratings missing, malformed or of another schema
│   └── EngineError          an engine or model that is not there, or lacks its extra
├── BudgetError            the run's budget is spent; what is finished is kept
├── NoProgressError        acceptance stayed near zero; what was accepted is kept
├── GenerationError        the model replicas failed a block of requests for good
├── TrainingError          fine-tuning failed for good; its checkpoints are kept
├── GateError              a part of the gate was lost and could not be rebuilt
├── LeaseLostError         another driver has taken over the run; nothing more is written
├── ClusterLostError       a cluster that answered does so no more; the run is kept
├── HubLostError           a dataset hub does not answer or failed; nothing was committed
└── StorageLostError       storage that worked failed for good; what is finished is kept

Each takes one message, so every one of them survives pickling across Ray.
"""


class RaySIError(Exception):
    """Base of the tree."""


class UserError(RaySIError, ValueError):
    """Something the caller can mend; nothing was written."""


class ConfigError(UserError):
    """A configuration that cannot be run."""


class SeedError(UserError):
    """Seed tasks that cannot be used."""


class RunError(UserError):
    """A run folder that cannot be used."""


class DamageError(RunError):
    """A run whose header cannot be made sense of."""


class StorageError(UserError):
    """A folder or bucket that cannot be used as it is."""


class HubError(UserError):
    """A dataset hub that refuses what is asked of it."""


class CorpusError(UserError):
    """A file of texts that cannot be read, or an output that cannot be written."""


class TaskError(UserError):
    """Evaluation tasks or ratings that cannot be used."""


class EngineError(UserError):
    """An engine or a model that is not available here."""


class BudgetError(RaySIError):
    """The run stopped because what it may spend is spent."""


class NoProgressError(RaySIError):
    """The run stopped because hardly any candidate is accepted any more."""


class GenerationError(RaySIError):
    """Requests failed for good after every retry."""


class TrainingError(RaySIError):
    """Fine-tuning failed for good after every retry; its checkpoints are kept."""


class GateError(RaySIError):
    """A part of the gate's pool was lost and could not be rebuilt."""


class LeaseLostError(RaySIError):
    """This driver no longer holds the run's lease, and must not commit."""


class ClusterLostError(RaySIError):
    """A cluster that took a job does not answer any more."""


class HubLostError(RaySIError):
    """A dataset hub that does not answer, or failed after every retry."""


class StorageLostError(RaySIError):
    """Storage that worked before failed for good, after every retry."""


def one_line(error: object, limit: int | None = None) -> str:
    """What an error or another text says, without line breaks, cut after ``limit`` characters.

    Half a surrogate pair, which no file, log or terminal takes, becomes U+FFFD.
    """
    units = " ".join(str(error).split()).encode("utf-16-le", "surrogatepass")
    text = units.decode("utf-16-le", "replace")
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
