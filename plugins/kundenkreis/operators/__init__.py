"""One operator per task of the night: connection in, call, summary out.

This package and `dags/` are the only places that import Airflow. What a task does is in
`kundenkreis.night`.
"""

from __future__ import annotations

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
)
from kundenkreis.operators.privacy import EraseOperator

__all__ = [
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
    "RetentionOperator",
    "EraseOperator",
]
