"""One operator per task of the night: connection in, call, summary out.

This package and `dags/` are the only places that import Airflow. What a task does is in
`kundenkreis.night`.
"""

from __future__ import annotations

from kundenkreis.operators.alerts import NightNotifier, night_alerts
from kundenkreis.operators.approval import (
    ApproveOperator,
    DeliverHeldOperator,
    FindHeldOperator,
    ask_and_deliver,
)
from kundenkreis.operators.night import (
    DeliverOperator,
    ExtractOperator,
    GateOperator,
    PlanOperator,
    PredictOperator,
    PublishOperator,
    ReadSubscribersOperator,
    ReconcileOperator,
    ReportOperator,
    RetentionOperator,
    SegmentOperator,
    TransformOperator,
    asset,
    task_defaults,
)
from kundenkreis.operators.privacy import EraseOperator

__all__ = [
    "task_defaults",
    "NightNotifier",
    "night_alerts",
    "ExtractOperator",
    "ReadSubscribersOperator",
    "GateOperator",
    "TransformOperator",
    "PredictOperator",
    "SegmentOperator",
    "PublishOperator",
    "PlanOperator",
    "DeliverOperator",
    "ReconcileOperator",
    "ReportOperator",
    "FindHeldOperator",
    "ApproveOperator",
    "DeliverHeldOperator",
    "ask_and_deliver",
    "asset",
    "RetentionOperator",
    "EraseOperator",
]
