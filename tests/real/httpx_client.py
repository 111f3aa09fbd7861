# SPDX-License-Identifier: Apache-2.0
"""Streams over a keep-alive pool of httpx, each of which may be given up: after some chunks, or after some time.

After the last stream it waits for the end of standard input with the pool open, so that the test decides when idle
connections close.
"""

import argparse
import asyncio
import sys

import httpx

import trust
import truth


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--requests", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--prompt-bytes", type=int, default=64)
    parser.add_argument("--close-after-chunks", type=int, help="close each stream after this many reads")
    parser.add_argument("--close-after", type=float, help="ms after which a request is given up")
    parser.add_argument("--authority", help="PEM file of the certificate to trust")
    return parser.parse_args()


def kind_of(data: bytes) -> str:
    if b'"content":" ' in data:
        return "token"
    return "done" if b"[DONE]" in data else "other"


async def stream(client: httpx.AsyncClient, args: argparse.Namespace, number: int) -> str:
    body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "x" * args.prompt_bytes}]}
    truth.log("request", number)
    async with client.stream("POST", args.url, json=body) as response:
        host, port = response.extensions["network_stream"].get_extra_info("client_addr")[:2]
        truth.log("first_byte", number, local=f"{host}:{port}", status=response.status_code)
        chunks = 0
        async for data in response.aiter_raw():
            truth.log("chunk", number, kind=kind_of(data), bytes=len(data))
            chunks += 1
            if chunks == args.close_after_chunks:
                return "closed"
    return "ok"


async def attempt(client: httpx.AsyncClient, args: argparse.Namespace, number: int) -> None:
    try:
        limit = args.close_after and args.close_after / 1000
        outcome = await asyncio.wait_for(stream(client, args, number), limit)
    except (httpx.HTTPError, TimeoutError) as error:
        outcome = type(error).__name__
    truth.log("end", number, outcome=outcome)


async def run(args: argparse.Namespace) -> None:
    verify = trust.context(args.authority)
    limits = httpx.Limits(max_connections=args.concurrency, max_keepalive_connections=args.concurrency)
    async with httpx.AsyncClient(verify=verify, limits=limits, timeout=60) as client:
        gate = asyncio.Semaphore(args.concurrency)

        async def gated(number: int) -> None:
            async with gate:
                await attempt(client, args, number)

        await asyncio.gather(*(gated(number) for number in range(args.requests)))
        truth.log("idle", args.requests)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(run(options()))
