"""Every night: from what the platform brought to a published index and its neighbour tables, or to a reason why not.

`run_nightly` (job.py) is the whole job. Below it, in the order in which one meets them:

    home.py        what lies where in the job's folder
    record.py      run.json: what a run did, stage by stage and gate by gate
    identity.py    what a run is known by: its night, its input and settings; the names of the gates
    standing.py    whether what a run has done still holds
    run.py         a run as its stages see it; judging a gate
    night.py       a run from outside: find or begin it, do a stage once, end it
    stages.py      the stages in order: intake.py (validate, pairs), vectors.py (train, embed, choose), bundles.py (index, evaluate,
                   gate, publish, neighbours), retention.py (collect)
    models.py      which model is live, and which other one may take its place
    canaries.py    has anything about the encoder changed?
    rivals.py      the live bundle and tonight's on the same questions
    report.py      the page of a night
    preview.py     what a night would do
    forget.py      a note's or a person's deletion, through every table (erase.py), page (mentions.py) and the index
"""

from noterec.nightly.identity import GATES
from noterec.nightly.job import NightSummary, nightly_status, rollback_nightly, run_nightly
from noterec.nightly.night import Night
from noterec.nightly.record import GateResult, Outcome
from noterec.nightly.stages import STAGES

__all__ = [
    "GATES",
    "STAGES",
    "GateResult",
    "Night",
    "NightSummary",
    "Outcome",
    "nightly_status",
    "rollback_nightly",
    "run_nightly",
]
