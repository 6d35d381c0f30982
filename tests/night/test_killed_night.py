"""Nights that are killed on the way and run again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.night.conftest import FIRST_NIGHT, Household

pytestmark = [pytest.mark.integration, pytest.mark.night]

# In the order in which a night reaches them. Each kill is followed by a run that is killed at the
# next place, and the last one by a run that is left alone.
PLACES = [
    "extract.woocommerce.after_load",
    "transform.after_build",
    "publish.after_commit",
    "deliver.after_request",
]


def test_killed_anywhere_and_run_again_ends_the_same(
    household: Callable[..., Household],
) -> None:
    disturbed, calm = household(seed=23), household(seed=23)
    with ThreadPoolExecutor(1) as background:
        undisturbed = background.submit(calm.run, FIRST_NIGHT, check=True)
        for place in PLACES:
            completed = disturbed.run(FIRST_NIGHT, failpoint=place)
            assert completed.returncode == -9, f"{place} was not reached: {completed.stderr}"
        disturbed.run(FIRST_NIGHT, check=True)
        undisturbed.result()
    assert disturbed.published() == calm.published()
    assert disturbed.audiences() == calm.audiences()
    in_doubt = "select count(*) from activation.delivered_state where in_doubt"
    assert disturbed.rows(in_doubt) == [(0,)]
