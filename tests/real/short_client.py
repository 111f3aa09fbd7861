# SPDX-License-Identifier: Apache-2.0
"""Fetches bodies of known content over one kept connection, uploads some, and prints a digest of all that came back.

Run by the tests of the shortcut: what it prints must be the same whichever way the bytes went.
"""
import hashlib
import http.client
import sys

host, port, uploads = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "uploads"
MIXED = [20_000, 50, 70_000, 100, 15_000, 1000, 20_000, 999]
# Connections that carry bulk leave the shortcut: that comes last.
SIZES = [10, 1000, 300] + [1000] * 40 + MIXED + [8_388_608, 100, 1000, 8_388_608, 999] + [1000] * 10


def pattern(length):
    block = bytes((at ^ (at >> 8) * 31) & 255 for at in range(65_536))
    return (block * (length // 65_536 + 1))[:length]


connection = http.client.HTTPConnection(host, port, timeout=20)
digest = hashlib.sha256()
for size in SIZES:
    connection.request("GET", f"/{size}")
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, response.status
    assert body == pattern(size), f"{size}: {len(body)} bytes, which differ"
    digest.update(body)
if uploads:
    for size in [10, 1000, 100_000, 300, 4_194_304, 1000]:
        sent = pattern(size)
        connection.request("POST", "/sum", body=sent)
        answer = connection.getresponse().read().decode()
        assert answer == hashlib.sha256(sent).hexdigest(), f"{size}: {answer}"
        digest.update(answer.encode())
connection.close()
print(digest.hexdigest(), flush=True)
