"""Which data of which source fill a column of customer_360."""

from __future__ import annotations

from collections.abc import Mapping

# Where the columns of customer_360 come from that not every shop has.
_FILLED_BY: Mapping[str, str] = {
    **dict.fromkeys(
        ("birthday", "next_birthday_on", "days_until_birthday", "age_years"),
        "from date_of_birth of HubSpot contacts",
    ),
    **dict.fromkeys(
        ("favourite_category", "favourite_category_share"),
        "from products with a category: WooCommerce, or files of entity products that map category",
    ),
    **dict.fromkeys(
        ("last_delivered_on", "days_since_delivery"),
        "from the completed date of WooCommerce orders, or files that map delivered_at",
    ),
    "discount_share": "from WooCommerce orders, or files that map discount_amount",
    **dict.fromkeys(
        ("last_abandoned_checkout_on", "days_since_abandoned_checkout"),
        "from WooCommerce orders of status checkout-draft",
    ),
    "acquisition_source": "from HubSpot contacts, or files of customers that map it",
    **dict.fromkeys(
        (
            "p_alive",
            "expected_orders_90d",
            "expected_orders_365d",
            "expected_order_value",
            "clv_90d",
            "clv_365d",
            "expected_next_order_date",
        ),
        "from the task predict, which needs enough repeat buyers",
    ),
}
_FILLED_BY_OTHERS = "docs/data_model.md says what it stands on"


def filled_by(column: str) -> str:
    """What fills a column, in words that follow "the column is empty: "."""
    return _FILLED_BY.get(column, _FILLED_BY_OTHERS)
