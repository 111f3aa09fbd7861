# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-style chat server on Starlette and uvicorn, the stack of vLLM's server, with scripted timing.

Headers leave as soon as the handler returns its StreamingResponse, long before the first token, as they do in vLLM.
Every message that the application gives to uvicorn is logged with the time right before uvicorn writes it.
"""

import argparse
import asyncio
import itertools
import json
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

import truth

HEARTBEAT = b": ping\n\n"
DONE = b"data: [DONE]\n\n"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True, help="ip:port")
    parser.add_argument("--http", choices=["h11", "httptools"], default="h11")
    parser.add_argument("--certificate", help="PEM file; with --key, serve TLS")
    parser.add_argument("--key")
    parser.add_argument("--prefill", type=float, default=200, help="ms until the first token")
    parser.add_argument("--inter-token", type=float, default=20, help="ms between writes")
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--tokens-per-write", type=int, default=1)
    parser.add_argument("--role", action="store_true", help="send the role at once, without content, as vLLM does")
    parser.add_argument("--heartbeat", type=float, help="ms between comments during prefill")
    parser.add_argument("--nagle", action="store_true", help="as under vLLM, whose listener is not known as TCP to asyncio")
    parser.add_argument("--idle-timeout", type=int, default=5, help="s; uvicorn's default")
    return parser.parse_args()


def event(delta: dict, finish: str | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-6c1f0e9a7b3d4e5f",
        "object": "chat.completion.chunk",
        "created": 1767225600,
        "model": "scripted",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


class Generation:
    """One scripted answer: pairs of what kind a write is and its bytes, each given when it is due."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.started = asyncio.get_running_loop().time()

    async def wait_until(self, seconds: float) -> None:
        await asyncio.sleep(max(0, self.started + seconds - asyncio.get_running_loop().time()))

    async def prefill(self):
        args = self.args
        if args.role:
            yield "role", event({"role": "assistant", "content": ""})
        if args.heartbeat:
            for beat in itertools.count(1):
                if beat * args.heartbeat >= args.prefill:
                    break
                await self.wait_until(beat * args.heartbeat / 1000)
                yield "heartbeat", HEARTBEAT
        await self.wait_until(args.prefill / 1000)

    async def writes(self):
        args = self.args
        async for write in self.prefill():
            yield write
        for number, first in enumerate(range(0, args.tokens, args.tokens_per_write)):
            await self.wait_until((args.prefill + number * args.inter_token) / 1000)
            tokens = range(first, min(first + args.tokens_per_write, args.tokens))
            yield "token", b"".join(event({"content": f" word{token}"}) for token in tokens)
        yield "finish", event({}, "stop")
        yield "done", DONE

    async def answer(self) -> dict:
        await self.wait_until((self.args.prefill + self.args.tokens * self.args.inter_token) / 1000)
        text = "".join(f" word{token}" for token in range(self.args.tokens))
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 1, "completion_tokens": self.args.tokens, "total_tokens": self.args.tokens + 1}
        return {
            "id": "chatcmpl-6c1f0e9a7b3d4e5f",
            "object": "chat.completion",
            "created": 1767225600,
            "model": "scripted",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }


def application(args: argparse.Namespace) -> Starlette:
    async def completions(request: Request):
        body = await request.json()
        truth.log("request_read", request.scope["number"], request.scope["connection"].received_at)
        generation = Generation(args)
        if not body.get("stream"):
            return JSONResponse(await generation.answer())

        async def stream():
            async for kind, data in generation.writes():
                request.scope["kind"] = kind
                yield data

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def health(_: Request):
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", completions, methods=["POST"]),
            Route("/health", health),
        ]
    )


def stamped(protocol: type) -> type:
    """The protocol, which remembers when asyncio read from the connection last."""

    class Stamped(protocol):
        def data_received(self, data: bytes) -> None:
            self.received_at = truth.now()
            super().data_received(data)

    return Stamped


PROTOCOLS = {"h11": H11Protocol, "httptools": HttpToolsProtocol}


class Logged:
    """The application, with its requests numbered and all that it sends logged."""

    def __init__(self, app):
        self.app = app
        self.numbers = itertools.count()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        number = scope["number"] = next(self.numbers)
        # The way from an application's `receive` to its connection is uvicorn's own, the same for both protocols.
        scope["connection"] = receive.__self__.transport.get_protocol()
        host, port = scope["client"]
        truth.log("request", number, peer=f"{host}:{port}", path=scope["path"])

        async def logged_receive():
            message = await receive()
            if message["type"] == "http.disconnect":
                truth.log("disconnect", number)
            return message

        async def logged_send(message):
            at = truth.now()
            await send(message)
            if message["type"] == "http.response.start":
                truth.log("send", number, at, kind="headers", bytes=0)
            elif message.get("body"):
                truth.log("send", number, at, kind=scope.get("kind", "body"), bytes=len(message["body"]))
            if message["type"] == "http.response.body" and not message.get("more_body"):
                truth.log("end", number, outcome="ok")

        try:
            await self.app(scope, logged_receive, logged_send)
        except BaseException as error:
            truth.log("end", number, outcome=type(error).__name__)
            raise


def main() -> None:
    args = options()
    host, port = truth.split_address(args.listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY on what such a listener accepts only if the listener says that it is TCP.
    protocol = 0 if args.nagle else socket.IPPROTO_TCP
    listener = socket.socket(family, socket.SOCK_STREAM, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(1024)
    config = uvicorn.Config(
        Logged(application(args)),
        http=stamped(PROTOCOLS[args.http]),
        loop="asyncio",
        lifespan="off",
        log_level="warning",
        ssl_certfile=args.certificate,
        ssl_keyfile=args.key,
        timeout_keep_alive=args.idle_timeout,
    )
    truth.listening(args.listen)
    uvicorn.Server(config).run(sockets=[listener])


main()
