# SPDX-License-Identifier: Apache-2.0
"""An HTTP server on asyncio: GET /N answers with N bytes of known content, POST /sum with the SHA-256 of what was sent."""
import asyncio
import hashlib
import sys

BLOCK = bytes((at ^ (at >> 8) * 31) & 255 for at in range(65_536))


async def serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split("\r\n")[0].split(" ")
            if method == "POST":
                length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length"))
                body = hashlib.sha256(await reader.readexactly(length)).hexdigest().encode()
            else:
                length = int(path[1:])
                body = (BLOCK * (length // len(BLOCK) + 1))[:length]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    host, port = sys.argv[1].rsplit(":", 1)
    server = await asyncio.start_server(serve, host, int(port))
    print(f"listening on {sys.argv[1]}", flush=True)
    await server.serve_forever()


asyncio.run(main())
