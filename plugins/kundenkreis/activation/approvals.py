"""What the size guard held, and what people decide about it.

A held audience goes out only by a row of ``activation.approvals``, and only with exactly the plan
that was decided on: the decision carries the plan's hash, and delivery compares it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row

from kundenkreis.activation.delivery import require_plannable
from kundenkreis.errors import KundenkreisError, PlanOutdated
from kundenkreis.warehouse.connection import connect

Decision = Literal["approve", "reject"]
DecidedIn = Literal["airflow", "command line"]

_HELD = """
with open_rows as (
    select
        held_rows.destination,
        held_rows.audience,
        count(*) as open_rows
    from activation.held_rows
    where
        held_rows.publication_id = %(publication_id)s
        and not exists (
            select 1
            from activation.ledger
            where
                ledger.publication_id = held_rows.publication_id
                and ledger.plan_row_id = held_rows.plan_row_id
                and ledger.state in ('confirmed', 'rejected', 'suppressed', 'skipped')
        )
    group by held_rows.destination, held_rows.audience
)
select
    held_audiences.publication_id,
    held_audiences.destination,
    held_audiences.audience,
    held_audiences.segment,
    held_audiences.held_because,
    held_audiences.members,
    held_audiences.adds,
    held_audiences.removes,
    held_audiences.updates,
    held_audiences.plan_hash,
    coalesce(open_rows.open_rows, 0) as open_rows,
    decisions.decision,
    decisions.decided_by,
    decisions.decided_at,
    decisions.decided_in,
    decisions.note
from activation.held_audiences
left join open_rows
    on
        open_rows.destination = held_audiences.destination
        and open_rows.audience = held_audiences.audience
left join activation.decisions
    on
        decisions.publication_id = held_audiences.publication_id
        and decisions.destination = held_audiences.destination
        and decisions.audience = held_audiences.audience
        and decisions.plan_hash = held_audiences.plan_hash
where held_audiences.publication_id = %(publication_id)s
order by held_audiences.segment, held_audiences.destination, held_audiences.audience
"""

_RECORD = """
insert into activation.approvals (
    publication_id, destination, audience, segment, plan_hash, decision, decided_by, decided_in,
    note, run_id
)
select
    held_audiences.publication_id, held_audiences.destination, held_audiences.audience,
    held_audiences.segment, held_audiences.plan_hash, %(decision)s, %(by)s, %(place)s, %(note)s,
    %(run_id)s
from activation.held_audiences
where
    held_audiences.publication_id = %(publication_id)s
    and held_audiences.destination = %(destination)s
    and held_audiences.audience = %(audience)s
    and held_audiences.plan_hash = %(plan_hash)s
"""


@dataclass(frozen=True)
class HeldAudience:
    """An audience that waits for somebody, with the decision there is on exactly this plan.

    members: contacts we have in it now. adds, removes, updates: what would be sent.
    open_rows: what of it has not been settled. decision: None while nobody has decided.
    """

    publication_id: int
    destination: str
    audience: str
    segment: str
    held_because: str
    members: int
    adds: int
    removes: int
    updates: int
    plan_hash: str
    open_rows: int = 0
    decision: str | None = None
    decided_by: str | None = None
    decided_at: datetime | None = None
    decided_in: str | None = None
    note: str | None = None

    @property
    def state(self) -> str:
        """waits, approved, rejected or sent."""
        if self.decision == "approve":
            return "approved" if self.open_rows else "sent"
        return "rejected" if self.decision == "reject" else "waits"

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values; no personal data."""
        when = self.decided_at.isoformat() if self.decided_at else None
        return {**asdict(replace(self, decided_at=None)), "decided_at": when, "state": self.state}


def held_audiences(connection: psycopg.Connection, publication_id: int) -> list[HeldAudience]:
    """What the plan of a publication holds; nothing where there is no such plan."""
    exists = connection.execute("select to_regclass('activation.held_audiences')").fetchone()
    if exists == (None,):
        return []
    with connection.cursor(row_factory=class_row(HeldAudience)) as cursor:
        return cursor.execute(_HELD, {"publication_id": publication_id}).fetchall()


def questions(dsn: str, publication_id: int) -> list[dict[str, Any]]:
    """What is to be asked: one entry per segment with an audience that nobody has decided on.

    Returns ``[{"segment", "publication_id", "audiences": [{"destination", "audience",
    "held_because", "members", "adds", "removes", "updates", "plan_hash"}]}]``.
    """
    with connect(dsn) as connection:
        held = [one for one in held_audiences(connection, publication_id) if not one.decision]
    asked = ("destination", "audience", "held_because", "members", "adds", "removes", "updates")
    return [
        {
            "segment": segment,
            "publication_id": publication_id,
            "audiences": [
                {name: getattr(one, name) for name in (*asked, "plan_hash")}
                for one in held
                if one.segment == segment
            ],
        }
        for segment in dict.fromkeys(one.segment for one in held)
    ]


def in_words(audience: dict[str, Any]) -> str:
    """One held audience of a question, for the person who decides."""
    why = {
        "initial": "it was never filled before, and the segment does not say `initial: allow`",
        "below_min_size": "fewer people than `min_size` can be sent",
        "change_above_limit": "more would change than `max_change_percent`",
        "no_segments_configured": "no segment is configured at all",
    }
    reason = audience["held_because"]
    return (
        f"{audience['destination']}, audience '{audience['audience']}' ({audience['members']:,} "
        f"members now): {audience['adds']:,} would join, {audience['removes']:,} would leave, "
        f"{audience['updates']:,} would get attributes. Held because {why.get(reason, reason)}."
    )


def find(held: Sequence[HeldAudience], name: str, destination: str | None) -> list[HeldAudience]:
    """The held audiences of a segment, by its key, or those with a name.

    Raises:
        KundenkreisError: none is; names those that are.
    """
    wanted = name.casefold()
    found = [
        one
        for one in held
        if wanted in (one.segment.casefold(), one.audience.casefold())
        and destination in (None, one.destination)
    ]
    if found:
        return found
    names = ", ".join(dict.fromkeys(one.segment for one in held))
    place = f" in {destination}" if destination else ""
    raise KundenkreisError(
        f"Nothing of '{name}' is held{place}. "
        + (f"Held are: {names}." if names else "The current plan holds nothing.")
    )


def decide(
    connection: psycopg.Connection,
    audiences: Sequence[HeldAudience] | Sequence[dict[str, Any]],
    publication_id: int,
    decision: Decision,
    *,
    by: str,
    place: DecidedIn,
    note: str | None = None,
    run_id: str | None = None,
) -> None:
    """Record one decision for all these audiences, or for none.

    Args:
        audiences: as asked, each with ``destination``, ``audience`` and ``plan_hash``.
        by: who decided, for the record.
        run_id: Airflow's run that asked.

    Raises:
        PlanOutdated: there is a newer publication, or the plan was made anew and differs.
    """
    with connection.transaction():
        require_plannable(connection, publication_id)
        for one in audiences:
            asked = one if isinstance(one, dict) else asdict(one)
            recorded = connection.execute(
                _RECORD,
                {
                    "publication_id": publication_id,
                    "destination": asked["destination"],
                    "audience": asked["audience"],
                    "plan_hash": asked["plan_hash"],
                    "decision": decision,
                    "by": by,
                    "place": place,
                    "note": note or None,
                    "run_id": run_id,
                },
            ).rowcount
            if recorded != 1:
                raise PlanOutdated(
                    f"What would be sent to '{asked['audience']}' in {asked['destination']} has "
                    "changed since it was shown. Nothing was decided; look at `kundenkreis plan` "
                    "and decide again."
                )
