"""docs/gates.md says what the suites say."""

from __future__ import annotations

from kundenkreis.quality.documentation import gates_markdown, page


def test_the_page_is_current() -> None:
    assert page().read_text(encoding="utf-8") == gates_markdown(), (
        "docs/gates.md is out of date: run `make docs`"
    )


def test_the_page_names_every_gate_and_severity() -> None:
    text = gates_markdown()
    assert "### raw_woocommerce.orders" in text
    assert "### segment_members" in text
    for severity in ("critical", "warning", "info"):
        assert f" | {severity} | " in text
