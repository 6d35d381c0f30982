"""The least a delivery with a ledger can be: a server-side cursor, four connections, one insert.

Each batch is posted and then its keys and payload hashes are inserted and committed. It does not
read the answer's rows, knows no contact's state, and would repeat or lose a batch when killed.
Arguments: the warehouse's URI and the tool's port. Prints one line of JSON.
"""

import hashlib
import json
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import httpx
import psycopg
from memory import peak_bytes

dsn, port = sys.argv[1:]
client = httpx.Client(
    base_url=f"http://127.0.0.1:{port}", auth=("bench", "key"), trust_env=False, timeout=60
)


def post(rows):
    members = [
        {"email_address": address, "status": "subscribed", "merge_fields": attributes}
        for address, attributes in rows
    ]
    body = {"members": members, "update_existing": True, "sync_tags": False}
    client.post("/3.0/lists/bench", json=body).raise_for_status()
    return [address for address, _ in rows], [
        hashlib.md5(repr(row).encode(), usedforsecurity=False).hexdigest() for row in rows
    ]


begun = time.perf_counter()
with (
    psycopg.connect(dsn) as reader,
    psycopg.connect(dsn) as writer,
    ThreadPoolExecutor(4) as pool,
    reader.cursor(name="members") as cursor,
):
    writer.execute("create table floor_ledger (address text primary key, payload_hash text)")
    cursor.itersize = 2000
    cursor.execute("select address, cast(attributes as jsonb) from activation.plan_rows")
    under_way, exhausted = set(), False
    while under_way or not exhausted:
        while not exhausted and len(under_way) < 6:
            batch = cursor.fetchmany(500)
            exhausted = not batch
            if batch:
                under_way.add(pool.submit(post, batch))
        done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
        for one in done:
            writer.execute(
                "insert into floor_ledger select * from unnest(%b::text[], %b::text[])",
                one.result(),
            )
            writer.commit()
seconds = time.perf_counter() - begun
with psycopg.connect(dsn) as connection:
    (rows,) = connection.execute("select count(*) from floor_ledger").fetchone()
    connection.execute("drop table floor_ledger")
print(json.dumps({"seconds": seconds, "memory_bytes": peak_bytes(), "confirmed": rows}))
