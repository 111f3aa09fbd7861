# SPDX-License-Identifier: Apache-2.0
"""A stream of tokens from Starlette on uvicorn, the stack of vLLM's server, with nothing behind it: what a token costs such a server."""

import asyncio
import json
import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route


def event(delta: dict, finish: str | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-6c1f0e9a7b3d4e5f6a7b8c9d",
        "object": "chat.completion.chunk",
        "created": 1767225600,
        "model": "llama-3.1-8b",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def main() -> None:
    pause = float(sys.argv[1])
    sockets = []
    for address in sys.argv[2:]:
        host, _, port = address.rpartition(":")
        # asyncio sets TCP_NODELAY on what such a listener accepts only if the listener says that it is TCP.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind((host, int(port)))
        listener.listen(1024)
        sockets.append(listener)

    async def tokens(count: int):
        loop = asyncio.get_running_loop()
        due = loop.time()
        for number in range(count):
            due += pause
            await asyncio.sleep(max(0, due - loop.time()))
            yield event({"content": f" word{number}"})
        yield event({}, "stop")
        yield b"data: [DONE]\n\n"

    async def completions(request: Request):
        body = await request.json()
        return StreamingResponse(tokens(body["max_tokens"]), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/chat/completions", completions, methods=["POST"])])
    config = uvicorn.Config(app, http="httptools", loop="asyncio", lifespan="off", log_level="warning")
    print("listening on", *sys.argv[2:], flush=True)
    uvicorn.Server(config).run(sockets=sockets)


main()
