# SPDX-License-Identifier: Apache-2.0
"""A gRPC client without a proxy: it dials `xds:///NAME` and learns from the control plane where that is.

It obeys lines on standard input, and answers each with one JSON object on standard output, which has its
number:

    call N    calls N times, one after the other: how often each server answered, and each error
    status    CSDS: what it has of each resource, and whether it took that
"""

import argparse
import collections
import json
import os
import sys


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", required=True, help="ip:port of the xDS server")
    parser.add_argument("--node", required=True)
    parser.add_argument("--target", required=True, help="name to dial")
    return parser.parse_args()


def bootstrap(args: argparse.Namespace) -> str:
    server = {
        "server_uri": args.control,
        "channel_creds": [{"type": "insecure"}],
        "server_features": ["xds_v3"],
    }
    return json.dumps({"xds_servers": [server], "node": {"id": args.node}})


args = options()
# Read once, when the library is loaded.
os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = bootstrap(args)

import grpc  # noqa: E402
from envoy.admin.v3 import config_dump_shared_pb2  # noqa: E402
from grpc_csds import ClientStatusDiscoveryServiceServicer as Csds  # noqa: E402


def call(method, count: int) -> dict:
    servers, errors = collections.Counter(), collections.Counter()
    for _ in range(count):
        try:
            servers[method(b"", timeout=5).decode()] += 1
        except grpc.RpcError as error:
            errors[f"{error.code().name}: {error.details()}"] += 1
    return {"servers": servers, "errors": errors}


def status() -> dict:
    resources = []
    for client in Csds.FetchClientStatus(None, None).config:
        for config in client.generic_xds_configs:
            resources.append({
                "type": config.type_url,
                "name": config.name,
                "version": config.version_info,
                "status": config_dump_shared_pb2.ClientResourceStatus.Name(config.client_status),
                "error": config.error_state.details,
            })
    return {"resources": resources}


def main() -> None:
    with grpc.insecure_channel(f"xds:///{args.target}") as channel:
        method = channel.unary_unary("/nodemesh.Generation/Name")
        for number, line in enumerate(sys.stdin):
            match line.split():
                case ["call", count]:
                    answer = call(method, int(count))
                case ["status"]:
                    answer = status()
                case _:
                    sys.exit(f"no command: {line!r}")
            print(json.dumps({"answer": number, **answer}), flush=True)


main()
