"""`kundenkreis.activation.deliver` in a process of its own; prints one line of JSON.

Arguments: the warehouse's URI, the tool's port, the publication, and ``window`` where the tool
announces a window of calls in its headers instead of limiting connections.
"""

import json
import sys
import time
from types import SimpleNamespace

from memory import peak_bytes

from kundenkreis.activation import delivery
from kundenkreis.connections import Connection
from kundenkreis.destinations import open_destination
from kundenkreis.destinations.config import MailchimpSettings
from kundenkreis.http import RateLimit

dsn, port, publication, *shape = sys.argv[1:]
settings = SimpleNamespace(
    destinations={"mailchimp": MailchimpSettings(create_contacts=True, list_id="bench")}
)
connection = Connection(
    id="mailchimp", scheme="http", host="127.0.0.1", port=int(port), password="key-bench"
)


def open_tool(*arguments):
    tool = open_destination(*arguments)
    if shape:
        limit = RateLimit(remaining_header="RateLimit-Remaining", reset_header="RateLimit-Reset")
        tool._client._rate_limit = tool._client._pacer._limit = limit
    return tool


begun = time.perf_counter()
summary = delivery.deliver(
    "mailchimp",
    settings,
    lambda name: connection,
    dsn,
    "bench",
    int(publication),
    lambda message: None,
    open_tool=open_tool,
)
seconds = time.perf_counter() - begun
print(
    json.dumps(
        {
            "seconds": seconds,
            "memory_bytes": peak_bytes(),
            "confirmed": summary["confirmed"],
            "calls": summary["calls"],
        }
    )
)
