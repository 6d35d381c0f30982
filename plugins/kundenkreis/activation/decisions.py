"""A decision made on the command line: given to the run that waits for it, or recorded here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from kundenkreis import airflow_api
from kundenkreis.activation.approvals import Decision, HeldAudience, decide
from kundenkreis.activation.delivery import require_plannable
from kundenkreis.errors import VendorError

Answer = Callable[[str, int, str, str], Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a decision.

    answered: segments whose waiting run in Airflow got the answer; it records and sends.
    recorded: audiences whose decision was recorded here.
    """

    decision: Decision
    publication_id: int
    answered: tuple[str, ...]
    recorded: tuple[HeldAudience, ...]
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "decision": self.decision,
            "publication_id": self.publication_id,
            "answered_in_airflow": list(self.answered),
            "recorded": [
                {
                    "destination": one.destination,
                    "audience": one.audience,
                    "segment": one.segment,
                    "plan_hash": one.plan_hash,
                }
                for one in self.recorded
            ],
        }


def decide_on(
    connection: psycopg.Connection,
    held: Sequence[HeldAudience],
    chosen: Sequence[HeldAudience],
    decision: Decision,
    *,
    by: str,
    note: str,
    answer: Answer = airflow_api.answer,
) -> Outcome:
    """Decide on held audiences.

    A run in Airflow asks about a whole segment, so it is answered only where all held audiences of
    the segment are chosen. Where Airflow does not answer, the decision is recorded here.

    Args:
        held: everything that the plan holds.
        chosen: what is decided on, of one publication.
        answer: as `kundenkreis.airflow_api.answer`.

    Raises:
        PlanOutdated: there is a newer publication, or the plan differs from the one shown.
        CredentialError: Airflow is connected, but refuses the login.
    """
    publication_id = chosen[0].publication_id
    require_plannable(connection, publication_id)
    answered: list[str] = []
    warnings: list[str] = []
    for segment in dict.fromkeys(one.segment for one in chosen):
        whole = [one for one in held if one.segment == segment]
        if any(one not in chosen for one in whole):
            continue
        try:
            told = f"{note} (by {by}, command line)".strip()
            if answer(segment, publication_id, decision, told) is not None:
                answered.append(segment)
        except VendorError as error:
            warnings.append(f"{error} The decision is recorded in the warehouse instead.")
    recorded = tuple(one for one in chosen if one.segment not in answered)
    decide(connection, recorded, publication_id, decision, by=by, place="command line", note=note)
    return Outcome(decision, publication_id, tuple(answered), recorded, tuple(warnings))
