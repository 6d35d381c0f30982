"""Gate ``marts``: customer_360 and who is in which segment (design: Segments, Consent)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kundenkreis.quality import limits
from kundenkreis.quality.facts import MartsFacts
from kundenkreis.quality.filled_by import filled_by
from kundenkreis.quality.suites.common import literal, literals, percent
from kundenkreis.quality.suites.rules import (
    REBUILD,
    comparable,
    key,
    no_orphans,
    rule,
)
from kundenkreis.settings import Settings


def customer_360(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """The wide table: every customer, as the other marts have them."""
    schema = facts.schema
    wide = f"{schema}.customer_360"
    # The same people as in customers, of which the same is asked.
    proven = "wide customers" in facts.agreed
    yield key("customer_360", facts, "customer_id", proven=proven)
    if facts.exists(schema, "customers"):
        yield rule(
            "customer_360",
            "every_customer",
            "The wide table has exactly the customers.",
            f"""
                select customer.customer_id from {schema}.customers as customer
                where not exists (
                    select 1 from {wide} as wide where wide.customer_id = customer.customer_id
                )
                union all
                select wide.customer_id from {wide} as wide
                where not exists (
                    select 1 from {schema}.customers as customer
                    where customer.customer_id = wide.customer_id
                )
            """,
            limit="no customer missing, none added",
            proven=proven,
        )
    if facts.exists(schema, "lifecycle_intervals"):
        yield rule(
            "customer_360",
            "stage_is_current",
            "The stage shown is the customer's open interval.",
            f"""
                select wide.customer_id from {wide} as wide
                left join {schema}.lifecycle_intervals as current
                    on current.customer_id = wide.customer_id and current.valid_to is null
                where wide.stage is distinct from current.stage
            """,
            proven="stage changes" in facts.agreed,
        )
    if facts.exists(schema, "contactability"):
        yield rule(
            "customer_360",
            "contactable_by_consent",
            "Nobody is shown as contactable without a contactable address.",
            f"""
                select wide.customer_id from {wide} as wide
                where wide.is_contactable and not exists (
                    select 1 from {schema}.contactability as verdict
                    where verdict.customer_id = wide.customer_id
                        and verdict.channel = 'email' and verdict.is_contactable
                )
            """,
            proven="consent" in facts.agreed,
        )
    yield rule(
        "customer_360",
        "of_this_night",
        "Every row is as of the date that is computed.",
        f"select customer_id, as_of_date from {wide} "
        f"where as_of_date is distinct from date '{facts.as_of_date}'",
        limit=f"as_of_date {facts.as_of_date}",
    )
    yield from _few_change_stage(facts)


def _few_change_stage(facts: MartsFacts) -> Iterator[Any]:
    """Whom the last publication knew is mostly where it left them, unless the rules changed."""
    before = facts.published_as_of
    if before is None or not facts.is_newer or not facts.exists("marts", "customer_360", "stage"):
        return
    if (facts.as_of_date - before).days > limits.STAGE_CHANGES_WITHIN_DAYS:
        return
    both = f"""
        from marts.customer_360 as published
        inner join {facts.schema}.customer_360 as wide
            on wide.customer_id = published.customer_id
    """
    moved = "wide.stage is distinct from published.stage"
    yield rule(
        "customer_360",
        "few_change_stage",
        "Few of the customers whom the last publication knew have changed their stage.",
        f"""
            select count(*) as customers, count(*) filter (where {moved}) as moved {both}
            having count(*) >= {limits.MARTS_FEWEST}
                and count(*) filter (where {moved}) > {limits.STAGE_CHANGES_SHARE} * count(*)
        """,
        severity="critical" if facts.same_rules else "warning",
        limit=f"at most {percent(limits.STAGE_CHANGES_SHARE)} since {before}",
        action="So many do not order, or stop ordering, in a few days. Look at the models "
        "int_order_days and int_lifecycle_schedule, and at what was landed. After a change of "
        "model.yml this is a warning.",
        measure=f"select count(*) filter (where {moved}) || ' of ' || count(*) {both}",
        proven="few stage changes" in facts.agreed,
    )


def segment_members(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """Members: eligible, contactable by consent, held out as drawn."""
    schema = facts.schema
    members = f"{schema}.segment_members"
    yield key("segment_members", facts)
    yield from no_orphans("segment_members", facts, "segment")
    yield rule(
        "segment_members",
        "known_segments",
        "Every membership is of a segment that is switched on.",
        f"select segment, count(*) as members from {members} "
        f"where segment not in ({literals(settings.active_segments)}) group by segment",
        limit="segments of segments.yml",
    )
    yield rule(
        "segment_members",
        "member_since_by_as_of",
        "Nobody is a member since a day after the as-of date.",
        f"select segment, customer_id from {members} "
        f"where member_since is null or member_since > date '{facts.as_of_date}'",
        limit=f"member_since not after {facts.as_of_date}",
    )
    yield from _members_eligible(facts)
    if facts.exists(schema, "contactability"):
        yield from _members_consent(facts)
    yield from _required_columns(settings, facts)
    yield from _holdouts(settings, facts)
    yield from _size_drift(settings, facts)


def _members_eligible(facts: MartsFacts) -> Iterator[Any]:
    schema = facts.schema
    if not facts.exists(schema, "customers", "birthday", "has_profiling_objection", "is_minor"):
        return
    yield rule(
        "segment_members",
        "eligible",
        "No member objected to profiling, and none is known to be under 18.",
        f"""
            select member.segment, member.customer_id from {schema}.segment_members as member
            inner join {schema}.customers as customer
                on customer.customer_id = member.customer_id
            where customer.has_profiling_objection
                or customer.is_minor
                or customer.birthday > date '{facts.as_of_date}' - interval '18 years'
        """,
        limit="no objection, no minor",
    )


def _required_columns(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    wide = f"{facts.schema}.customer_360"
    needed = [
        (segment, column)
        for segment, definition in sorted(settings.active_segments.items())
        for column in definition.requires
        if facts.exists(facts.schema, "customer_360", column)
    ]
    if not needed:
        return
    empty = " union all ".join(
        f"select {literal(segment)} as segment, {literal(column)} as lacks, "
        f"{literal(filled_by(column))} as filled_by "
        f"where not exists (select 1 from {wide} where {column} is not null)"
        for segment, column in needed
    )
    yield rule(
        "segment_members",
        "required_columns",
        "Every column that a segment requires holds a value for somebody.",
        empty,
        severity="warning",
        limit="the columns under `requires` in segments.yml not empty for everybody",
        action="The segment has no members until then. Let a source deliver the column, or set "
        "`enabled: false` for the segment in segments.yml.",
        measure="select string_agg(lacking, '; ') from ("
        "select segment || ' lacks ' || string_agg(lacks || ' (' || filled_by || ')', ', ') "
        f"as lacking from ({empty}) as t group by segment order by segment) as by_segment",
    )


def _members_consent(facts: MartsFacts) -> Iterator[Any]:
    schema = facts.schema
    action = (
        "These people must not be written to. Compare segment_members with contactability. "
        + REBUILD
    )
    proven = "consent" in facts.agreed
    yield rule(
        "segment_members",
        "contactable_by_consent",
        "No member is flagged contactable without a contactable address.",
        f"""
            select member.segment, member.customer_id from {schema}.segment_members as member
            where member.is_contactable is null
                or (member.is_contactable and not exists (
                    select 1 from {schema}.contactability as verdict
                    where verdict.customer_id = member.customer_id
                        and verdict.channel = 'email' and verdict.is_contactable
                ))
        """,
        limit="no unconsented member",
        action=action,
        proven=proven,
    )
    if facts.exists(schema, "customers"):
        yield rule(
            "segment_members",
            "sent_address_is_contactable",
            "The address a contactable member would be sent is itself contactable.",
            f"""
                select distinct member.customer_id
                from {schema}.segment_members as member
                inner join {schema}.customers as customer
                    on customer.customer_id = member.customer_id
                where member.is_contactable
                    and not exists (
                        select 1 from {schema}.contactability as verdict
                        where verdict.customer_id = member.customer_id
                            and verdict.channel = 'email'
                            and verdict.is_contactable
                            and lower(verdict.address) = lower(customer.email)
                    )
            """,
            limit="no other address",
            action=action,
            proven=proven,
        )


def consent_alike(facts: MartsFacts) -> str:
    """SQL that says whether all who are shown as contactable have the address they are sent; or "".

    Those shown in customer_360 are those whose own address is contactable: number and checksum are
    compared. And no member is contactable who is not so there.
    """
    schema = facts.schema
    if not (
        facts.exists(schema, "customers", "email")
        and facts.exists(schema, "customer_360", "is_contactable")
        and facts.exists(schema, "contactability")
        and facts.exists(schema, "segment_members", "is_contactable")
    ):
        return ""
    counted = """
        select count(*) as customers,
            coalesce(sum(hashtextextended(customer_id, 0)), 0) as checksum
    """
    return f"""
        select
            shown.customers = sent.customers
            and shown.checksum = sent.checksum
            and (
                select count(*) from {schema}.segment_members as member
                left join {schema}.customer_360 as wide on wide.customer_id = member.customer_id
                where member.is_contactable is null
                    or (member.is_contactable and wide.is_contactable is not true)
            ) = 0
        from ({counted} from {schema}.customer_360 where is_contactable) as shown
        cross join (
            {counted} from (
                select customer.customer_id
                from {schema}.customers as customer
                inner join {schema}.contactability as verdict
                    on verdict.customer_id = customer.customer_id
                    and lower(verdict.address) = lower(customer.email)
                where verdict.channel = 'email' and verdict.is_contactable
            ) as own
        ) as sent
    """


def _holdouts(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    members = f"{facts.schema}.segment_members"
    yield rule(
        "segment_members",
        "holdout_decided",
        "Every member is either held out or not.",
        f"select segment, customer_id from {members} where is_holdout is null",
    )
    active = settings.active_segments
    everywhere = float(settings.model.global_holdout_percent)
    shares = {
        key: everywhere + float(segment.holdout_percent) * (1 - everywhere / 100)
        for key, segment in active.items()
    }
    if not shares:
        return
    expected = ", ".join(
        f"({literal(key)}, {share / 100})" for key, share in sorted(shares.items())
    )
    # Four standard deviations: a share that far off is no accident of the draw.
    shifted = f"""
        select drawn.segment, drawn.members, drawn.held_out
        from (
            select segment, count(*) as members, count(*) filter (where is_holdout) as held_out
            from {members} where is_contactable or is_holdout group by segment
        ) as drawn
        inner join (values {expected}) as configured (segment, share)
            on configured.segment = drawn.segment
        where (configured.share = 0 and drawn.held_out > 0)
            or (
                drawn.members >= {limits.HOLDOUT_MIN_MEMBERS}
                and abs(drawn.held_out - drawn.members * configured.share)
                > 4 * sqrt(drawn.members * configured.share * (1 - configured.share))
            )
    """
    yield rule(
        "segment_members",
        "holdout_share",
        "As many members are held out as configured.",
        shifted,
        severity="warning",
        limit="holdout_percent of segments.yml, within four standard deviations",
        action="Expected for a while after holdout_percent was changed, because holdouts are "
        "kept; otherwise look at the segment's members by is_holdout.",
        measure="select string_agg(segment || ': ' || held_out || ' of ' || members, ', ') "
        f"from ({shifted}) as t",
    )
    yield from _no_holdout_delivered(facts)
    if comparable(facts):
        yield rule(
            "segment_members",
            "holdout_kept",
            "Who stays in a segment stays held out or not, as drawn at entry.",
            f"""
                select member.segment, member.customer_id from {members} as member
                inner join marts.segment_members as published
                    on published.segment = member.segment
                    and published.customer_id = member.customer_id
                    and published.member_since = member.member_since
                where published.is_holdout <> member.is_holdout
                    and (published.is_contactable or published.is_holdout)
            """,
            severity="warning",
            limit="no change while a membership lasts",
            action="Comparisons with the holdout lose their meaning. Expected after holdout_salt "
            "was changed, the global holdout switched on or off, or customers merged; otherwise "
            "look at the model int_holdout_draws.",
        )


def kpi_holdout_lift(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """The comparison with the holdouts: is it one of people drawn by chance?"""
    yield key("kpi_holdout_lift", facts, "segment")
    # Four standard deviations, as above. Kohavi, Tang and Xu, Trustworthy Online Controlled
    # Experiments (2020), chapter 21: a sample ratio mismatch makes every other figure worthless.
    mismatched = f"""
        select segment, treated_customers, holdout_customers, expected_holdout_customers
        from {facts.schema}.kpi_holdout_lift
        where treated_customers + holdout_customers >= {limits.HOLDOUT_MIN_MEMBERS}
            and abs(holdout_customers - expected_holdout_customers)
            > 4 * sqrt(expected_holdout_customers * (1 - holdout_percent / 100))
    """
    yield rule(
        "kpi_holdout_lift",
        "sample_ratio",
        "Of all who were drawn for a comparison, as many were held out as were to be.",
        mismatched,
        severity="warning",
        limit="holdout_percent of those who were drawn, within four standard deviations",
        action="Do not read the lift of these segments: their arms are not alike (sample ratio "
        "mismatch). Look in history.holdout_draws who is missing in one arm, and whether erasures "
        "or merges took more from one than from the other.",
        measure="select string_agg(segment || ': ' || holdout_customers || ' of ' || "
        "treated_customers + holdout_customers || ', expected ' || "
        f"round(expected_holdout_customers), '; ') from ({mismatched}) as t",
    )


def _no_holdout_delivered(facts: MartsFacts) -> Iterator[Any]:
    """What the last publication sent; the plan of this one is tested before it is sent."""
    if not comparable(facts) or not facts.exists("activation", "rows_under_way"):
        return
    yield rule(
        "segment_members",
        "no_holdout_delivered",
        "Nobody who is held out of a segment was sent it from the last publication.",
        """
            select attempt.destination, attempt.segment, attempt.customer_id, attempt.attempt_id
            from (
                select destination, segment, customer_id, attempt_id, operation, publication_id
                from activation.ledger
                where state in ('confirmed', 'unknown')
                union all
                select destination, segment, customer_id, null, operation, publication_id
                from activation.rows_under_way
            ) as attempt
            inner join marts.segment_members as published
                on published.segment = attempt.segment
                and published.customer_id = attempt.customer_id
            where published.is_holdout
                and attempt.operation = 'add'
                and attempt.publication_id = (
                    select max(publication_id) from history.publications
                )
        """,
        severity="warning",
        limit="no attempt to add a held-out member",
        action="Comparisons with the holdout lose their meaning. Look at the model desired_members "
        "with these rows; the next plan takes these members out again.",
    )


def _size_drift(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    active = settings.active_segments
    if not active or not comparable(facts):
        return
    allowed = ", ".join(
        f"({literal(key)}, {segment.max_change_percent})" for key, segment in sorted(active.items())
    )
    jumped = f"""
        select segment, members_before, members_now
        from (
            select
                configured.segment,
                configured.max_change_percent,
                published.members as members_before,
                coalesce(built.members, 0) as members_now
            from (values {allowed}) as configured (segment, max_change_percent)
            inner join (
                select segment, count(*) as members from marts.segment_members group by segment
            ) as published on published.segment = configured.segment
            left join (
                select segment, count(*) as members from {facts.schema}.segment_members
                group by segment
            ) as built on built.segment = configured.segment
        ) as sized
        where abs(members_now - members_before) >= {limits.SMALL_SEGMENT}
            and abs(members_now - members_before) * 100.0 > max_change_percent * members_before
    """
    yield rule(
        "segment_members",
        "size_drift",
        "No segment's size changed more than its limit since the current publication.",
        jumped,
        severity="warning",
        limit="max_change_percent of each segment",
        action="Delivery holds such a segment for approval. Look at what changed in the source "
        "or in the segment's definition.",
        measure="select string_agg(segment || ' ' || members_before || ' -> ' || members_now, "
        f"', ') from ({jumped}) as t",
    )
