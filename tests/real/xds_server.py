# SPDX-License-Identifier: Apache-2.0
"""A control plane of somebody else's: ADS v3, delta and state of the world, as the documentation of the protocol has it.

Each line on standard input is a JSON list of resources in the JSON form of protobuf, each with its "@type", which take the place
of all before them; an empty line has the server end every stream. What readers ask for and answer is logged as JSON on standard
output.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

import argparse
import hashlib
import json
import queue
import sys
import threading
from concurrent import futures

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2  # noqa: F401, known to json_format
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2, json_format

import truth

PREFIX = "type.googleapis.com/"
LISTENER = PREFIX + listener_pb2.Listener.DESCRIPTOR.full_name
CLUSTER = PREFIX + cluster_pb2.Cluster.DESCRIPTOR.full_name
ENDPOINTS = PREFIX + endpoint_pb2.ClusterLoadAssignment.DESCRIPTOR.full_name
ROUTE = PREFIX + route_pb2.RouteConfiguration.DESCRIPTOR.full_name
# What refers comes after what it refers to.
ORDER = [CLUSTER, ENDPOINTS, LISTENER, ROUTE]
# Types of which a request without names means all.
WILDCARD = {CLUSTER, LISTENER}


class Resources:
    """What there is: by type and name, the version and the content. Streams are woken by each change."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.version = 0
        self.tables: dict[str, dict[str, tuple[str, any_pb2.Any]]] = {}
        self.streams: set[queue.Queue] = set()

    def replace(self, documents: list[dict]) -> None:
        tables: dict[str, dict[str, tuple[str, any_pb2.Any]]] = {}
        for document in documents:
            packed = json_format.ParseDict(document, any_pb2.Any())
            name = document.get("name") or document["clusterName"]
            version = hashlib.sha256(packed.value).hexdigest()[:12]
            tables.setdefault(packed.type_url, {})[name] = (version, packed)
        with self.lock:
            self.version += 1
            self.tables = tables
        self.wake(True)

    def wake(self, goes_on: bool) -> None:
        with self.lock:
            for stream in self.streams:
                stream.put(None if goes_on else StopIteration)

    def table(self, type_url: str) -> tuple[str, dict[str, tuple[str, any_pb2.Any]]]:
        with self.lock:
            return str(self.version), dict(self.tables.get(type_url, {}))


class Subscription:
    """What one stream asked for of one type. `sent` is what its reader has: by name, the version."""

    def __init__(self) -> None:
        self.wildcard = False
        self.names: set[str] = set()
        self.sent: dict[str, str] = {}
        # Names that it was told do not exist.
        self.missing: set[str] = set()
        self.is_owed = True
        self.nonce = ""

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names


def log(variant: str, request, asked: dict) -> None:
    event = "nack" if request.HasField("error_detail") else "ack" if request.response_nonce else "request"
    truth.log(
        event,
        0,
        variant=variant,
        type=request.type_url,
        node=request.node.id,
        error=request.error_detail.message,
        **asked,
    )


class Delta:
    """The incremental variant."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.types: dict[str, Subscription] = {}
        self.nonces = 0

    def take(self, request) -> None:
        names = list(request.resource_names_subscribe)
        gone = list(request.resource_names_unsubscribe)
        versions = dict(request.initial_resource_versions)
        log("delta", request, {"subscribe": names, "unsubscribe": gone, "initial": versions})
        is_first = request.type_url not in self.types
        subscription = self.types.setdefault(request.type_url, Subscription())
        if is_first:
            subscription.sent = versions
            # One that has all there is needs no answer.
            subscription.is_owed = not versions
            subscription.wildcard = not names and request.type_url in WILDCARD
        for name in names:
            if name == "*":
                subscription.wildcard = True
                continue
            subscription.names.add(name)
            if not is_first:
                subscription.sent.pop(name, None)
        for name in gone:
            if name == "*":
                subscription.wildcard = False
            subscription.names.discard(name)
            subscription.sent.pop(name, None)

    def poll(self):
        for type_url in sorted(self.types, key=lambda url: ORDER.index(url) if url in ORDER else len(ORDER)):
            subscription = self.types[type_url]
            version, table = self.resources.table(type_url)
            wanted = {name: item for name, item in table.items() if subscription.wants(name)}
            changed = {name: item for name, item in wanted.items() if subscription.sent.get(name) != item[0]}
            removed = [name for name in subscription.sent if name not in wanted]
            missing = {name for name in subscription.names if name not in table}
            unknown = sorted(missing - subscription.missing - set(removed))
            subscription.missing = missing
            if not changed and not removed and not unknown and not subscription.is_owed:
                continue
            subscription.is_owed = False
            subscription.sent = {name: item[0] for name, item in wanted.items()}
            self.nonces += 1
            yield discovery_pb2.DeltaDiscoveryResponse(
                type_url=type_url,
                system_version_info=version,
                nonce=str(self.nonces),
                resources=[
                    discovery_pb2.Resource(name=name, version=item[0], resource=item[1])
                    for name, item in changed.items()
                ],
                removed_resources=removed + unknown,
            )


class StateOfTheWorld:
    """The variant that sends all that was asked for."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.types: dict[str, Subscription] = {}
        self.nonces = 0

    def take(self, request) -> None:
        names = set(request.resource_names)
        log("sotw", request, {"subscribe": sorted(names), "unsubscribe": [], "initial": {}})
        subscription = self.types.setdefault(request.type_url, Subscription())
        if request.response_nonce and request.response_nonce != subscription.nonce:
            return
        subscription.wildcard = "*" in names or (not names and request.type_url in WILDCARD)
        if names != subscription.names:
            subscription.names, subscription.sent = names, {}

    def poll(self):
        for type_url in sorted(self.types, key=lambda url: ORDER.index(url) if url in ORDER else len(ORDER)):
            subscription = self.types[type_url]
            version, table = self.resources.table(type_url)
            wanted = {name: item for name, item in table.items() if subscription.wants(name)}
            versions = {name: item[0] for name, item in wanted.items()}
            if versions == subscription.sent and not (subscription.is_owed and type_url in WILDCARD):
                continue
            subscription.is_owed, subscription.sent = False, versions
            self.nonces += 1
            subscription.nonce = str(self.nonces)
            yield discovery_pb2.DiscoveryResponse(
                type_url=type_url,
                version_info=version,
                nonce=subscription.nonce,
                resources=[item[1] for item in wanted.values()],
            )


class Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    def DeltaAggregatedResources(self, requests, context):
        yield from self.serve(Delta(self.resources), requests)

    def StreamAggregatedResources(self, requests, context):
        yield from self.serve(StateOfTheWorld(self.resources), requests)

    def serve(self, stream, requests):
        events: queue.Queue = queue.Queue()
        with self.resources.lock:
            self.resources.streams.add(events)

        def read() -> None:
            try:
                for request in requests:
                    events.put(request)
            except grpc.RpcError:
                pass
            events.put(StopIteration)

        threading.Thread(target=read, daemon=True).start()
        try:
            while (event := events.get()) is not StopIteration:
                if event is not None:
                    stream.take(event)
                yield from stream.poll()
        finally:
            truth.log("stream_ended", 0)
            with self.resources.lock:
                self.resources.streams.discard(events)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True, help="ip:port")
    args = parser.parse_args()
    resources = Resources()
    server = grpc.server(futures.ThreadPoolExecutor(16))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(Ads(resources), server)
    server.add_insecure_port(args.listen)
    server.start()
    truth.listening(args.listen)
    for line in sys.stdin:
        if line.strip():
            resources.replace(json.loads(line))
        else:
            resources.wake(False)
    server.stop(None)


main()
