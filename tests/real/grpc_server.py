# SPDX-License-Identifier: Apache-2.0
"""A gRPC server whose method Stream answers with scripted timing; messages are plain bytes, so there are no stubs."""

import argparse
import itertools
import time
from concurrent import futures

import grpc

import truth

SERVICE = "nodemesh.Generation"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True, help="ip:port")
    parser.add_argument("--prefill", type=float, default=200, help="ms until the first message")
    parser.add_argument("--inter-token", type=float, default=20, help="ms between messages")
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--workers", type=int, default=64)
    return parser.parse_args()


class Generation:
    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.numbers = itertools.count()

    def stream(self, _request: bytes, context: grpc.ServicerContext):
        number = next(self.numbers)
        truth.log("request", number, peer=context.peer())
        truth.log("request_read", number)
        started = time.monotonic()
        sent = 0

        def ended() -> None:
            truth.log("end", number, outcome="ok" if sent == self.args.tokens else "CANCELLED")

        context.add_callback(ended)
        for token in range(self.args.tokens):
            due = started + (self.args.prefill + token * self.args.inter_token) / 1000
            time.sleep(max(0, due - time.monotonic()))
            if not context.is_active():
                return
            data = f" word{token}".encode()
            truth.log("send", number, kind="token", bytes=len(data))
            sent += 1
            yield data

    def whole(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        number = next(self.numbers)
        truth.log("request", number, peer=context.peer())
        time.sleep(self.args.prefill / 1000)
        truth.log("send", number, kind="body", bytes=2)
        truth.log("end", number, outcome="ok")
        return b"ok"


def main() -> None:
    args = options()
    generation = Generation(args)
    methods = {
        "Stream": grpc.unary_stream_rpc_method_handler(generation.stream),
        "Whole": grpc.unary_unary_rpc_method_handler(generation.whole),
    }
    server = grpc.server(futures.ThreadPoolExecutor(args.workers))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_insecure_port(args.listen)
    server.start()
    truth.listening(args.listen)
    server.wait_for_termination()


main()
