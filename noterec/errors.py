"""What can go wrong, by who can mend it. Every message says what was given, what was expected and what to do."""


class NoterecError(Exception):
    """Base of all errors that a user can mend. The command line prints it in one line and exits with `exit_code`."""

    exit_code = 2


class InputError(NoterecError):
    """A file, table, column, id or argument that the user gave is wrong."""


class ImageError(InputError):
    """One picture of one note can't be used.

    Attributes:
        reason: why, as a short word of a fixed set (see `noterec.notes.images`): to be counted, and stored beside a reject.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)  # both, so that it survives the way back from a worker process
        self.reason = reason
        self._text = text

    def __str__(self) -> str:
        return self._text


class ConfigError(InputError):
    """A configuration value is unknown or out of range."""


class ArtefactError(NoterecError):
    """Something that noterec wrote earlier is missing, broken, or belongs to another model or dataset."""


class NoPairsError(InputError):
    """No pair is left after the rules: a log is too short yet, or too much was asked for."""


class LockedError(NoterecError):
    """Another job is writing the same output, or took it over: the same command may go well later."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h, after which a scheduler tries again


class DependencyError(NoterecError):
    """An optional package, a model folder or a device that this feature needs is not here."""


class WorkerError(NoterecError):
    """A process or a machine that worked for a job keeps dying, or ended with a bug."""

    exit_code = 1


class BatchError(NoterecError):
    """A batch is too small for the loss that was asked for."""


class GateError(NoterecError):
    """A quality gate stopped the job: the result exists but is not good enough to be used.

    Attributes:
        value: what the gate measured, where that is one number.
    """

    exit_code = 3

    def __init__(self, text: str, *, value: float | None = None) -> None:
        super().__init__(text)
        self.value = value


class DivergenceError(NoterecError):
    """Training ran into numbers that are none; the weights from before are kept."""

    exit_code = 3
