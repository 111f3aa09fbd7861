# SPDX-License-Identifier: Apache-2.0
"""A gRPC server that answers every call with its name."""

import argparse
from concurrent import futures

import grpc

import truth

SERVICE = "nodemesh.Generation"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True, help="ip:port")
    parser.add_argument("--name", required=True)
    args = parser.parse_args()
    methods = {"Name": grpc.unary_unary_rpc_method_handler(lambda _request, _context: args.name.encode())}
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_insecure_port(args.listen)
    server.start()
    truth.listening(args.listen)
    server.wait_for_termination()


main()
