"""What every destination has to do, against the sandbox's servers over real HTTP.

Every request is recorded. At the end all of them are checked: no consent or status field for a
contact the tool already knew, nobody created without proof, and bodies that fit the vendor's
published schema.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from kundenkreis.destinations.base import (
    Batch,
    JobLost,
    Outcome,
    Row,
    Submitted,
    normalise_address,
)
from kundenkreis.errors import CredentialError, VendorError
from sandbox.testing import Handle, running_sandbox
from sandbox.tool_history import FOREIGN_KLAVIYO_LISTS, FOREIGN_LISTS, FOREIGN_TAGS
from tests.contract import vendor_schemas
from tests.contract.destination_tools import (
    CASES,
    Clock,
    Recorder,
    Sent,
    Tool,
    connect,
    new_row,
    poll_until_done,
    unique,
)
from tests.vendor_specifications import require_specifications

FOREIGN = {*FOREIGN_LISTS, *FOREIGN_TAGS, *FOREIGN_KLAVIYO_LISTS}
GREETING = "Zoë 🎉 李"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    home = tmp_path_factory.mktemp("sandbox")
    with running_sandbox(home, customers=150, seed=3, until=date(2026, 11, 22)) as handle:
        yield handle


@pytest.fixture(scope="module")
def recorders() -> dict[str, Recorder]:
    return {name: Recorder(case.vendor) for name, case in CASES.items()}


@pytest.fixture(params=CASES)
def tool(
    request: pytest.FixtureRequest, sandbox: Handle, recorders: dict[str, Recorder]
) -> Iterator[Tool]:
    case, recorder, clock = CASES[request.param], recorders[request.param], Clock()
    sandbox.jobs()
    destination = connect(case, sandbox, recorder, clock)
    yield Tool(case, sandbox, destination, recorder, clock)
    destination.close()
    sandbox.clear_faults()


@pytest.fixture
def asynchronous(sandbox: Handle, recorders: dict[str, Recorder]) -> Iterator[Tool]:
    """The destinations whose answer comes later; one so far."""
    case, recorder, clock = CASES["klaviyo"], recorders["klaviyo"], Clock()
    sandbox.jobs()
    destination = connect(case, sandbox, recorder, clock)
    yield Tool(case, sandbox, destination, recorder, clock)
    destination.close()
    sandbox.clear_faults()


def again(tool: Tool) -> Tool:
    """The tool after a restart: nothing is remembered."""
    return replace(tool, destination=connect(tool.case, tool.sandbox, tool.recorder, tool.clock))


# Audiences


def test_an_empty_batch_makes_no_call(tool: Tool) -> None:
    before = tool.destination.calls

    for operation in ("upsert", "add", "remove"):
        assert tool.destination.deliver(Batch(operation, (), "1")) == []

    assert tool.destination.calls == before


def test_an_audience_is_made_once_and_found_again(tool: Tool) -> None:
    name = unique("Käufer, überfällig ✉")
    first = tool.destination.ensure_audience(name, None)
    later = again(tool).destination

    assert first.created
    assert later.ensure_audience(name, None).vendor_id == first.vendor_id
    assert later.ensure_audience("Renamed in the config", first.vendor_id).created is False
    assert later.ensure_audience(name, "99999").vendor_id == first.vendor_id


def test_an_audience_whose_creation_was_not_answered_is_made_once(tool: Tool) -> None:
    name = unique("Unanswered")
    tool.recorder.unanswered = 1

    found = tool.destination.ensure_audience(name, None)

    assert found.vendor_id == again(tool).destination.ensure_audience(name, None).vendor_id
    asked = [sent for sent in tool.recorder.requests if sent.method == "POST" and name in str(sent)]
    assert len(asked) == 1


def test_members_join_and_leave_and_duplicates_count_once(tool: Tool) -> None:
    audience = tool.audience("Joining")
    anna, bert = tool.contacts()[:2]
    twin = Row("twin", anna.address.upper(), anna.vendor_id)

    added = tool.move("add", audience, anna, bert, twin)
    repeated = tool.move("add", audience, anna)
    removed = tool.move("remove", audience, anna, twin)
    gone = tool.move("remove", audience, anna)

    every = [*added.values(), *repeated.values(), *removed.values(), *gone.values()]
    assert {outcome.state for outcome in every} == {"confirmed"}
    assert set(added) == {anna.key, bert.key, "twin"}
    assert tool.members(audience) == {bert.address}
    tool.move("remove", audience, bert)


def test_a_stranger_joins_nothing_and_costs_nobody_else(tool: Tool) -> None:
    audience = tool.audience("Strangers")
    anna, bert = tool.contacts()[:2]
    stranger = Row("stranger", "stranger@nirgends.de")

    added = tool.move("add", audience, anna, stranger, bert)

    assert added["stranger"].state == "rejected"
    assert {added[anna.key].state, added[bert.key].state} == {"confirmed"}
    assert tool.members(audience) == {anna.address, bert.address}
    tool.move("remove", audience, anna, bert)


def test_other_peoples_audiences_stay_as_they_are(tool: Tool) -> None:
    known = tool.sandbox.audiences()[tool.vendor]
    before = {name: members for name, members in known.items() if name in FOREIGN}
    audience = tool.audience("Ours")

    rows = tool.contacts()
    tool.move("add", audience, *rows)
    tool.move("remove", audience, *rows)

    assert any(before.values())
    assert {name: tool.sandbox.audiences()[tool.vendor][name] for name in before} == before


def test_everything_is_read_over_several_pages(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    audience = tool.audience("Paged")
    tool.move("add", audience, *tool.contacts())
    states, members = tool.states(audience), tool.members(audience)
    module = importlib.import_module(f"kundenkreis.destinations.{tool.vendor}")
    for constant in tool.case.paged:
        monkeypatch.setattr(module, constant, 7)
    before = tool.destination.calls

    assert tool.states(audience) == states
    assert tool.members(audience) == members

    assert len(members) > 21
    assert tool.destination.calls - before > 2 * len(states) // 10
    assert again(tool).destination.ensure_audience("Paged", None).vendor_id == audience
    tool.move("remove", audience, *tool.contacts())


# Attributes and new contacts


def test_attributes_are_set_changed_alone_and_cleared(tool: Tool) -> None:
    anna, bert = tool.contacts()[:2]
    before = tool.stored(anna.address)
    tool.destination.ensure_attributes(
        {"stage": "text", "monetary": "number", "first_name": "text"}
    )

    first = {"stage": GREETING, "monetary": 1, "first_name": "Łukasz"}
    tool.upsert(anna._replace(attributes=first), bert._replace(attributes={"stage": "b"}))
    tool.upsert(anna._replace(attributes={"monetary": 20.5}))
    changed = tool.stored(anna.address)
    tool.upsert(anna._replace(attributes={"stage": None, "monetary": 21}), bert)
    cleared = tool.stored(anna.address)
    tool.upsert(anna._replace(attributes={"first_name": before.get("first_name")}))

    assert [changed[name] for name in first] == [GREETING, 20.5, "Łukasz"]
    assert cleared.get("stage") in (None, "")
    assert cleared["monetary"] == 21
    assert tool.stored(bert.address)["stage"] == "b"
    others = before.keys() - first.keys()
    assert {name: cleared[name] for name in others} == {name: before[name] for name in others}


def test_a_new_contact_is_created_and_a_bad_one_in_the_middle_costs_nobody_else(tool: Tool) -> None:
    tool.destination.ensure_attributes({"stage": "text"})
    bad = Row("bad", "not an address", may_create=True)
    first, last = new_row("first", stage="reach"), new_row("last")

    outcomes = tool.upsert(first, bad, last)

    assert outcomes["bad"].state == "rejected"
    assert "not an address" not in str(outcomes["bad"])
    for row in (first, last):
        outcome = outcomes[row.key]
        assert (outcome.state, outcome.created) == ("confirmed", True)
        assert tool.states()[row.address].vendor_id == outcome.vendor_id
    assert tool.stored(first.address)["stage"] == "reach"
    audience = tool.audience("New ones")
    created = Row("add", first.address, outcomes[first.key].vendor_id)
    assert tool.move("add", audience, created)["add"].state == "confirmed"
    assert first.address in tool.members(audience)


def test_a_known_contact_that_vanished_costs_nobody_else(tool: Tool) -> None:
    """The failure inside a 200: the request as a whole is taken."""
    tool.destination.ensure_attributes({"stage": "text"})
    gone = new_row("gone")
    vendor_id = tool.upsert(gone)[gone.key].vendor_id
    while tool.destination.erase(gone.address):
        pass
    anna, bert = (row._replace(attributes={"stage": "here"}) for row in tool.contacts()[:2])
    middle = Row("middle", gone.address, vendor_id, attributes={"stage": "here"})

    outcomes = tool.upsert(anna, middle, bert)

    assert outcomes["middle"].state == "rejected"
    assert outcomes["middle"].reason_code
    assert gone.address not in str(outcomes["middle"])
    assert {outcomes[anna.key].state, outcomes[bert.key].state} == {"confirmed"}
    assert tool.stored(bert.address)["stage"] == "here"
    assert gone.address not in tool.states()


def test_an_unknown_contact_without_proof_is_not_created(tool: Tool) -> None:
    stranger = Row("stranger", "stranger@nirgends.de", attributes={"stage": "x"})

    assert tool.upsert(stranger)["stranger"].reason_code == "not_in_tool"
    assert stranger.address not in tool.states()


def test_duplicates_in_a_batch_share_one_outcome(tool: Tool) -> None:
    tool.destination.ensure_attributes({"stage": "text"})
    fresh = new_row("twice", stage="first")
    twin = Row("twin", fresh.address.upper(), may_create=True, attributes={"stage": "last"})

    outcomes = tool.upsert(fresh, twin)

    assert {outcome.state for outcome in outcomes.values()} == {"confirmed"}
    assert outcomes["twin"].vendor_id == outcomes[fresh.key].vendor_id
    assert tool.stored(fresh.address)["stage"] == "last"


def test_an_international_domain_is_one_contact_in_either_spelling(tool: Tool) -> None:
    typed = f"{unique('zoe')}@bücher.example"
    tool.arrive(typed)
    address = normalise_address(typed)
    tool.destination.ensure_attributes({"stage": "text"})
    audience = tool.audience("International")
    found = tool.states()[address]
    zoe = Row("zoe", address, found.vendor_id, attributes={"stage": GREETING})

    assert "xn--" in address
    assert tool.upsert(zoe)["zoe"].state == "confirmed"
    assert tool.move("add", audience, zoe)["zoe"].state == "confirmed"
    assert tool.members(audience) == {address}
    assert tool.stored(typed)["stage"] == GREETING
    assert tool.move("remove", audience, zoe)["zoe"].state == "confirmed"
    assert tool.members(audience) == set()
    assert tool.destination.erase(address) is True
    while tool.destination.erase(address):
        pass
    assert address not in tool.states()


# Consent


def test_a_contact_that_exists_after_all_keeps_its_status(tool: Tool) -> None:
    anna = tool.contacts()[3]
    tool.sandbox.unsubscribe(tool.vendor, anna.address)
    as_new = Row("late", anna.address, may_create=True, attributes={})

    outcome = tool.upsert(as_new)["late"]

    assert outcome.state == "rejected"
    assert outcome.reason_code == "contact_exists"
    assert tool.states()[anna.address].state == "unsubscribed"


SUPPRESSED = {
    "unsubscribe": "unsubscribed",
    "bounce": "bounced",
    "complaint": "complained",
    "blocklist": "blocklisted",
    "leave_lists": "unsubscribed",
}


@pytest.mark.parametrize("kind", SUPPRESSED)
def test_nothing_we_send_brings_a_suppressed_person_back(tool: Tool, kind: str) -> None:
    only = {"blocklist": ("listmonk", "klaviyo"), "leave_lists": ("klaviyo",)}
    if tool.vendor not in only.get(kind, (tool.vendor,)):
        pytest.skip(f"{tool.vendor} has no such thing")
    anna = tool.contacts()[5]
    audience = tool.audience("Suppressed")
    tool.move("add", audience, anna)

    tool.sandbox.unsubscribe(tool.vendor, anna.address, kind)
    tool.destination.ensure_attributes({"stage": "text"})
    tool.upsert(anna._replace(attributes={"stage": "x"}))
    tool.move("add", audience, anna)
    tool.move("remove", audience, anna)

    found = tool.states(audience)[anna.address]
    assert (found.state, found.evidence) == (SUPPRESSED[kind], None)
    assert found.state_changed_at is not None
    assert anna.address not in tool.members(audience)


def test_our_own_audiences_prove_nothing(tool: Tool) -> None:
    audience = tool.audience("Proof")
    echo = new_row("echo")
    created = tool.upsert(echo)[echo.key]
    tool.move("add", audience, Row("add", echo.address, created.vendor_id))

    found = tool.states(audience)[echo.address]

    assert found.state == "subscribed"
    assert found.evidence != "double"


def test_states_tell_double_from_single_opt_in(tool: Tool) -> None:
    found = list(tool.states().values())

    # Klaviyo shows a sign-up that waits for its confirmation as "never subscribed".
    waiting = set() if tool.vendor == "klaviyo" else {"pending"}
    assert {"subscribed", "unsubscribed"} | waiting <= {state.state for state in found}
    assert {state.evidence for state in found if state.state == "subscribed"} >= {
        "double",
        "single",
    }
    assert all(state.state_changed_at for state in found if state.evidence)
    assert all(state.evidence is None for state in found if state.state != "subscribed")


def test_a_person_can_be_erased(tool: Tool) -> None:
    row = new_row("erase-me'")
    tool.upsert(row)

    assert tool.destination.erase(row.address) is True
    for _ in range(3):  # Klaviyo deletes later, and says so until then
        erased = not tool.destination.erase(row.address)
    assert erased
    assert row.address not in tool.states()
    assert tool.destination.erase("nobody@nirgends.de") is False


# Faults


@pytest.mark.parametrize("retry_after", [None, 7])
def test_throttling_is_waited_out(tool: Tool, retry_after: int | None) -> None:
    audience = tool.audience("Throttled")
    anna = tool.contacts()[0]
    fault = {"retry_after": retry_after} if retry_after else {}
    tool.sandbox.faults(vendor=tool.vendor, kind="429", times=2, **fault)

    assert tool.move("add", audience, anna)[anna.key].state == "confirmed"

    assert len(tool.delays) == 2
    assert all(wait >= (retry_after or 0.5) for wait in tool.delays)


@pytest.mark.parametrize("kind", ["500", "drop_before", "drop_after", "unanswered"])
def test_a_broken_call_is_repeated_and_nothing_doubles(tool: Tool, kind: str) -> None:
    tool.destination.ensure_attributes({"stage": "text"})
    audience = tool.audience("Broken")
    anna, bert = (row._replace(attributes={"stage": kind}) for row in tool.contacts()[:2])
    fresh = new_row("fresh")

    def break_next() -> None:
        if kind == "unanswered":
            tool.recorder.unanswered = 1
        else:
            tool.sandbox.faults(vendor=tool.vendor, kind=kind, times=1)

    break_next()
    joined = tool.move("add", audience, anna, bert)
    break_next()
    changed = tool.upsert(anna, bert)
    break_next()
    created = tool.upsert(fresh)[fresh.key]

    assert {outcome.state for outcome in [*joined.values(), *changed.values()]} == {"confirmed"}
    assert {anna.address, bert.address} <= tool.members(audience)
    assert tool.stored(bert.address)["stage"] == kind
    # A create that was taken and not answered is found to exist; delivery reads states again.
    assert created.state == "confirmed" or created.reason_code == "contact_exists"
    assert tool.states()[fresh.address].state == "subscribed"


def test_a_tool_that_stays_away_raises_without_personal_data(tool: Tool) -> None:
    anna = tool.contacts()[1]
    audience = tool.audience("Away")
    tool.sandbox.faults(vendor=tool.vendor, kind="500", times=50)

    with pytest.raises(VendorError) as raised:
        tool.move("add", audience, anna)

    assert anna.address not in str(raised.value)
    assert tool.vendor in str(raised.value).lower()


@pytest.mark.parametrize("kind", ["error_in_200", "not_json"])
def test_an_error_inside_a_200_confirms_nothing(tool: Tool, kind: str) -> None:
    audience = tool.audience("Lying")
    anna = tool.contacts()[2]
    update = anna._replace(attributes={"stage": "x"})
    tool.destination.ensure_attributes({"stage": "text"})

    fresh = new_row("lied")
    tool.recorder.proven.add(fresh.address)
    for batch in (
        Batch("add", (anna,), audience),
        Batch("upsert", (update,)),
        Batch("upsert", (fresh,)),
    ):
        tool.sandbox.faults(vendor=tool.vendor, kind=kind, times=1)
        with pytest.raises(VendorError):
            tool.destination.deliver(batch)


def test_a_refused_credential_names_the_connection_and_no_secret(tool: Tool) -> None:
    tool.sandbox.faults(vendor=tool.vendor, kind="unauthorised", times=1)

    with pytest.raises(CredentialError, match=f"connection '{tool.vendor}'") as raised:
        tool.contacts()

    assert tool.connection.password not in str(raised.value)


def test_a_request_at_the_size_limit_goes_whole_and_one_over_it_in_halves(tool: Tool) -> None:
    """Proxies in front of a tool limit the size of a body and answer 413."""
    tool.destination.ensure_attributes({"stage": "text"})
    audience = tool.audience("Heavy")
    rows = [row._replace(attributes={"stage": "x" * 40}) for row in tool.contacts()[:8]]
    batches = [Batch("add", rows, audience), Batch("remove", rows, audience)]
    for batch in [*batches, Batch("upsert", rows)] if tool.imports else batches:
        whole = written(tool, batch)
        assert len(whole) == 1
        tool.sandbox.faults(vendor=tool.vendor, kind="413", times=-1, larger_than=whole[0].size)
        assert len(written(tool, batch)) == 1
        tool.sandbox.clear_faults()
        tool.sandbox.faults(vendor=tool.vendor, kind="413", times=-1, larger_than=whole[0].size - 1)
        assert len(written(tool, batch)) == 3  # refused, and its halves
        tool.sandbox.clear_faults()


def test_a_row_that_is_too_large_by_itself_is_refused_alone(tool: Tool) -> None:
    tool.destination.ensure_attributes({"stage": "text"})
    anna, bert, carl = (row._replace(attributes={"stage": "x"}) for row in tool.contacts()[:3])
    heavy = bert._replace(attributes={"stage": "x" * 5000})
    tool.sandbox.faults(vendor=tool.vendor, kind="413", times=-1, larger_than=4000)

    outcomes = tool.upsert(anna, heavy, carl)

    assert outcomes[heavy.key].state == "rejected"
    assert outcomes[heavy.key].reason_code
    assert {outcomes[anna.key].state, outcomes[carl.key].state} == {"confirmed"}


def written(tool: Tool, batch: Batch) -> list[Sent]:
    """The writing requests of a delivery, all of whose rows are confirmed."""
    before = len(tool.recorder.requests)
    outcomes = tool.deliver(batch)
    assert {outcome.state for outcome in outcomes.values()} == {"confirmed"}
    return [sent for sent in tool.recorder.requests[before:] if sent.method != "GET"]


# Tools that answer later


def submit(tool: Tool, *rows: Row) -> tuple[Submitted, Batch]:
    batch = Batch("upsert", rows)
    tool.recorder.proven |= {row.address for row in rows if row.may_create}
    answer = tool.destination.deliver(batch)
    assert isinstance(answer, Submitted)
    assert answer.job_id
    return answer, batch


def by_key(outcomes: list[Outcome]) -> dict[str, Outcome]:
    return {outcome.key: outcome for outcome in outcomes}


def test_a_running_job_has_no_outcome_yet(asynchronous: Tool) -> None:
    asynchronous.sandbox.jobs(polls=3)
    tool: Any = asynchronous.destination
    anna = asynchronous.contacts()[0]._replace(attributes={"stage": "queued"})

    submitted, batch = submit(asynchronous, anna)

    assert [tool.poll(submitted.job_id, batch) for _ in range(3)] == [None] * 3
    assert tool.poll(submitted.job_id, batch) == [
        Outcome(anna.key, "confirmed", vendor_id=anna.vendor_id)
    ]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("told", [True, False])
def test_a_finished_job_tells_what_it_refused(
    asynchronous: Tool, told: bool, restarted: bool
) -> None:
    """In whatever way: by its errors, or by what the profiles hold afterwards."""
    asynchronous.sandbox.jobs(errors_repeat_payload=told)
    attributes = {"stage": f"{told} {restarted} {GREETING}", "monetary": 1.5}
    anna, bert, carl = (row._replace(attributes=attributes) for row in asynchronous.contacts()[:3])
    fresh = new_row("late", stage="new")
    lost = Row("lost", "lost@nirgends.de", "01JSBX99999999999999999999", attributes=attributes)
    cleared = carl._replace(attributes={"stage": None, "monetary": 3})

    submitted, batch = submit(asynchronous, anna, lost, bert, cleared, fresh)
    if restarted:
        asynchronous = again(asynchronous)
        known = asynchronous.states()[fresh.address].vendor_id
        rows = [row._replace(vendor_id=row.vendor_id or known) for row in batch.rows]
        batch = Batch("upsert", rows)
    outcomes = by_key(poll_until_done(asynchronous.destination, submitted.job_id, batch))

    assert outcomes.pop("lost").state == "rejected"
    assert {outcome.state for outcome in outcomes.values()} == {"confirmed"}
    assert outcomes[fresh.key].vendor_id == asynchronous.states()[fresh.address].vendor_id
    assert asynchronous.stored(bert.address)["stage"] == attributes["stage"]
    assert "stage" not in asynchronous.stored(carl.address)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_cancelled_job_confirms_only_what_it_did(asynchronous: Tool, restarted: bool) -> None:
    asynchronous.sandbox.jobs(end="cancelled")
    attributes = {"stage": f"cancelled {restarted}"}
    rows = [row._replace(attributes=attributes) for row in asynchronous.contacts()[:6]]

    submitted, batch = submit(asynchronous, *rows)
    asynchronous = again(asynchronous) if restarted else asynchronous
    outcomes = by_key(poll_until_done(asynchronous.destination, submitted.job_id, batch))

    for row in rows:
        done = asynchronous.stored(row.address).get("stage") == attributes["stage"]
        outcome = outcomes[row.key]
        assert (outcome.state, outcome.reason_code) == (
            ("confirmed", None) if done else ("rejected", "job_cancelled")
        )
    assert {outcome.state for outcome in outcomes.values()} == {"confirmed", "rejected"}


def test_a_lost_job_is_told_apart_from_a_tool_that_is_away(asynchronous: Tool) -> None:
    asynchronous.sandbox.jobs(end="lost")
    tool: Any = asynchronous.destination
    anna = asynchronous.contacts()[0]._replace(attributes={"stage": "lost"})
    submitted, batch = submit(asynchronous, anna)

    with pytest.raises(JobLost) as lost:
        tool.poll(submitted.job_id, batch)
    asynchronous.sandbox.faults(vendor=asynchronous.vendor, kind="500", times=50)
    with pytest.raises(VendorError) as away:
        tool.poll(submitted.job_id, batch)

    assert not isinstance(away.value, JobLost)
    assert anna.address not in str(lost.value) + str(away.value)


def test_an_import_is_cut_at_the_vendors_size(
    asynchronous: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit one job, a byte less and it takes two, which are polled as one."""
    rows = [row._replace(attributes={"stage": GREETING}) for row in asynchronous.contacts()[:6]]
    batch = Batch("upsert", rows)
    (whole,) = written(asynchronous, batch)

    for limit, jobs in ((whole.size + 1, 1), (whole.size, 1), (whole.size - 1, 2)):
        monkeypatch.setattr("kundenkreis.destinations.klaviyo.LARGEST_IMPORT_BYTES", limit)
        sent = written(asynchronous, batch)
        assert len(sent) == jobs
        assert all(one.size <= limit for one in sent)


# What was sent

CONSENT_FIELDS = {
    "status",
    "status_if_new",
    "subscription_status",
    "preconfirm_subscriptions",
    "marketing_permissions",
    "subscriptions",
    "suppression",
    "consent",
    "$consent",
    "opt_in",
    "blocklist",
    "timestamp_opt",
}
FORCING = ("force", "overwrite", "historical_import", "double_optin", "skip_", "resubscribe")


class TestEverythingThatWasSent:
    """Runs last in this file, over the requests of all tests above."""

    def test_no_consent_field_for_a_known_contact(self, recorders: dict[str, Recorder]) -> None:
        for recorder in recorders.values():
            checked = 0
            for sent in writes(recorder):
                if not created_by(recorder.vendor, sent):
                    assert not keys_of(sent.body) & CONSENT_FIELDS, (sent.method, sent.path)
                    checked += 1
            assert checked > 20

    def test_only_people_with_proof_were_created(self, recorders: dict[str, Recorder]) -> None:
        for recorder in recorders.values():
            created = {
                normalise_address(address)
                for sent in writes(recorder)
                for address in created_by(recorder.vendor, sent)
            }
            assert created
            assert created <= {normalise_address(address) for address in recorder.proven}

    def test_nothing_forces_its_way_and_no_birth_date_leaves_the_house(
        self, recorders: dict[str, Recorder]
    ) -> None:
        for recorder in recorders.values():
            for sent in writes(recorder):
                for key in keys_of(sent.body):
                    lowered = key.lower()
                    assert not lowered.startswith(FORCING), (sent.path, key)
                    assert "birth" not in lowered, (sent.path, key)
                assert not (isinstance(sent.body, dict) and sent.body.get("sync_tags")), sent.path

    def test_no_call_subscribes_or_suppresses(self, recorders: dict[str, Recorder]) -> None:
        for recorder in recorders.values():
            for sent in recorder.requests:
                for word in ("subscription-bulk", "suppression", "blocklist", "optin", "/import/"):
                    assert word not in sent.path

    def test_an_update_of_many_cannot_create_anybody(self, recorders: dict[str, Recorder]) -> None:
        """Klaviyo's import creates whom it is given by address and does not know."""
        imports = [
            sent
            for sent in writes(recorders["klaviyo"])
            if sent.path.endswith("profile-bulk-import-jobs")
        ]
        assert len(imports) > 10
        assert not any("email" in keys_of(sent.body) for sent in imports)

    def test_bodies_fit_the_vendors_published_schema(self, recorders: dict[str, Recorder]) -> None:
        require_specifications()
        for recorder in recorders.values():
            checked = 0
            for sent in writes(recorder):
                found = vendor_schemas.faults(recorder.vendor, sent.method, sent.path, sent.body)
                assert found == []
                checked += 1
            assert checked > 40

    def test_batches_stay_within_the_vendors_limit(self, recorders: dict[str, Recorder]) -> None:
        most = {"members": 500, "members_to_add": 500, "members_to_remove": 500, "ids": 500}
        for recorder in recorders.values():
            for sent in writes(recorder):
                body = sent.body if isinstance(sent.body, dict) else {}
                for key, limit in {**most, "data": 1000}.items():
                    assert not isinstance(body.get(key), list) or len(body[key]) <= limit


GOOD_AND_BAD = [
    ("listmonk", "PUT", "/subscribers/lists", {"ids": [1], "action": "add"}, {"ids": ["1"]}),
    ("listmonk", "PATCH", "/subscribers/7", {"attribs": {"stage": "x"}}, {"attrib": {}}),
    ("listmonk", "POST", "/lists", {"name": "x", "type": "private"}, {"type": "secret"}),
    ("mailchimp", "POST", "/lists/1/segments", {"name": "x"}, {"static_segment": []}),
    (
        "mailchimp",
        "POST",
        "/lists/1",
        {"members": [{"email_address": "a@b.de", "status": "subscribed"}]},
        {"members": [{"email_address": "a@b.de", "status": "confirmed"}]},
    ),
    ("mailchimp", "POST", "/lists/1", {"members": []}, {"members": [{"email_adress": "a@b.de"}]}),
    (
        "klaviyo",
        "POST",
        "/api/lists/x/relationships/profiles",
        {"data": [{"type": "profile", "id": "1"}]},
        {"data": [{"type": "profile", "id": 1}]},
    ),
    (
        "klaviyo",
        "PATCH",
        "/api/profiles/1",
        {"data": {"type": "profile", "id": "1", "attributes": {"first_name": None}}},
        {"data": {"type": "profile", "id": "1", "attributes": {"frist_name": None}}},
    ),
    (
        "klaviyo",
        "POST",
        "/api/profile-bulk-import-jobs",
        {
            "data": {
                "type": "profile-bulk-import-job",
                "attributes": {
                    "profiles": {"data": [{"type": "profile", "id": "1", "attributes": {}}]}
                },
            }
        },
        {"data": {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": "x"}}}},
    ),
]


@pytest.mark.parametrize(("vendor", "method", "path", "good", "bad"), GOOD_AND_BAD)
def test_the_validator_refuses_a_wrong_body(
    vendor: str, method: str, path: str, good: Any, bad: Any
) -> None:
    require_specifications()

    assert vendor_schemas.faults(vendor, method, path, good) == []
    assert vendor_schemas.faults(vendor, method, path, bad) != []
    assert vendor_schemas.faults(vendor, method, "/no/such/call", good) != []


def writes(recorder: Recorder) -> list[Sent]:
    """The requests that change something and say so in a body."""
    return [
        sent
        for sent in recorder.requests
        if sent.method in ("POST", "PUT", "PATCH", "DELETE") and sent.body is not None
    ]


def created_by(vendor: str, sent: Sent) -> list[str]:
    """The addresses of a request that can only make new contacts, never change known ones."""
    if sent.method != "POST":
        return []
    if vendor == "listmonk" and sent.path == "/subscribers":
        return [sent.body["email"]]
    if vendor == "klaviyo" and sent.path == "/api/profiles":
        return [sent.body["data"]["attributes"]["email"]]
    if vendor == "mailchimp" and sent.body.get("update_existing") is False:
        return [member["email_address"] for member in sent.body["members"]]
    return []


def keys_of(body: Any) -> set[str]:
    if isinstance(body, dict):
        return set(body) | {key for value in body.values() for key in keys_of(value)}
    if isinstance(body, list):
        return {key for value in body for key in keys_of(value)}
    return set()
