"""Nights that are killed on the way, run again, and started twice at once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.night.conftest import FIRST_NIGHT, Household

pytestmark = [pytest.mark.integration, pytest.mark.night, pytest.mark.trouble]

# In the order in which a night reaches them. Each kill is followed by a run that is killed at the
# next place, and the last one by two runs at once that are left alone.
PLACES = [
    "extract.woocommerce.after_load",
    "transform.after_build",
    "publish.after_commit",
    "deliver.after_request",
]


def test_killed_anywhere_and_run_again_ends_the_same(
    household: Callable[..., Household],
) -> None:
    disturbed, calm = (household(seed=23, direct_gates=True) for _ in range(2))
    with ThreadPoolExecutor(1) as background:
        undisturbed = background.submit(calm.run, FIRST_NIGHT, check=True)
        for place in PLACES:
            completed = disturbed.run(FIRST_NIGHT, failpoint=place)
            assert completed.returncode == -9, f"{place} was not reached: {completed.stderr}"
        undisturbed.result()
        twin = background.submit(disturbed.run, FIRST_NIGHT)
        nights = [disturbed.run(FIRST_NIGHT), twin.result()]
    assert_one_passed_and_the_other_passed_or_gave_way(nights)
    assert disturbed.published() == calm.published()
    assert disturbed.audiences() == calm.audiences()
    # What either of the two has sent is in the books, whoever came first.
    in_doubt = "select count(*) from activation.effective_state where in_doubt"
    assert disturbed.rows(in_doubt) == [(0,)]


def assert_one_passed_and_the_other_passed_or_gave_way(
    nights: list[subprocess.CompletedProcess[str]],
) -> None:
    failed = [night for night in nights if night.returncode]
    assert len(failed) < len(nights), "\n".join(night.stderr for night in nights)
    for night in failed:
        gave_way = "Superseded: " in night.stderr or "PlanOutdated: " in night.stderr
        assert gave_way, night.stdout + night.stderr
