# SPDX-License-Identifier: Apache-2.0
"""Concurrent gRPC streams over one connection, the first of which may be cancelled.

After the last stream it waits for the end of standard input with the connection open.
"""

import argparse
import sys
from concurrent import futures

import grpc

import truth

SERVICE = "nodemesh.Generation"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True, help="ip:port")
    parser.add_argument("--streams", type=int, default=1, help="at the same time")
    parser.add_argument("--rounds", type=int, default=1, help="one after the other")
    parser.add_argument("--whole", action="store_true", help="call the method with one answer")
    parser.add_argument("--prompt-bytes", type=int, default=64)
    parser.add_argument("--cancel-first-after", type=int, help="messages after which the first stream is cancelled")
    return parser.parse_args()


def stream(call, args: argparse.Namespace, number: int) -> None:
    truth.log("request", number)
    messages = call(b"x" * args.prompt_bytes)
    try:
        for count, message in enumerate(messages, 1):
            truth.log("chunk", number, kind="token", bytes=len(message))
            if number == 0 and count == args.cancel_first_after:
                messages.cancel()
        outcome = "ok"
    except grpc.RpcError as error:
        outcome = error.code().name
    truth.log("end", number, outcome=outcome)


def whole(call, args: argparse.Namespace, number: int) -> None:
    truth.log("request", number)
    answer = call(b"x" * args.prompt_bytes)
    truth.log("chunk", number, kind="body", bytes=len(answer))
    truth.log("end", number, outcome="ok")


def main() -> None:
    args = options()
    with grpc.insecure_channel(args.target) as channel, futures.ThreadPoolExecutor(args.streams) as threads:
        if args.whole:
            run, call = whole, channel.unary_unary(f"/{SERVICE}/Whole")
        else:
            run, call = stream, channel.unary_stream(f"/{SERVICE}/Stream")
        for turn in range(args.rounds):
            numbers = range(turn * args.streams, (turn + 1) * args.streams)
            for done in [threads.submit(run, call, args, number) for number in numbers]:
                done.result()
        truth.log("idle", args.streams * args.rounds)
        sys.stdin.read()


main()
