# SPDX-License-Identifier: Apache-2.0
"""Both ends of connections that carry random bytes in small messages, both ways at once, to readers that pause: there is nearly always
something that was sent and is not read yet.

    short_stream.py serve HOST:PORT            serves until it is ended
    short_stream.py connect HOST:PORT COUNT    goes on until its standard input ends

Each end prints, for each connection that has ended, the port of the client, and the number and the digest of the bytes of both directions.
"""
import hashlib
import json
import random
import socket
import sys
import threading
import time


def say(line, lock=threading.Lock()):
    """Prints a line whole, whichever threads print at the time."""
    with lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class Side:
    """One end of one connection."""

    def __init__(self, connection, client, seed):
        # Which makes it non-blocking: a socket whose reads wait is left to TCP.
        connection.settimeout(60)
        self.connection, self.client = connection, client
        self.random = random.Random(seed)
        self.over = threading.Event()
        self.sent, self.received = [0, hashlib.sha256()], [0, hashlib.sha256()]

    def count(self, of, data):
        of[0] += len(data)
        of[1].update(data)

    def send(self):
        chance = random.Random(self.random.random())
        while True:
            for _ in range(chance.randint(1, 6)):
                # A first byte that begins neither HTTP nor TLS.
                data = b"\0" + chance.randbytes(chance.choice([1, 40, 300, 1000, 3000]))
                self.connection.sendall(data)
                self.count(self.sent, data)
            if self.over.wait(0.01):
                break
        self.connection.shutdown(socket.SHUT_WR)

    def receive(self):
        chance = random.Random(self.random.random())
        pause = 0
        while True:
            size = chance.choice([100, 1000, 4096, 65_536])
            ahead = self.connection.recv(size, socket.MSG_PEEK) if chance.random() < 0.1 else b""
            data = self.connection.recv(size)
            assert data.startswith(ahead[: len(data)]), "what was seen ahead is not what came"
            if not data:
                return
            self.count(self.received, data)
            if time.monotonic() > pause:
                time.sleep(chance.uniform(0.02, 0.12))
                pause = time.monotonic() + chance.uniform(0.05, 0.3)

    def play(self, ends_with_peer):
        sender = threading.Thread(target=self.send)
        sender.start()
        self.receive()
        if ends_with_peer:
            self.over.set()
        sender.join()
        told = {"client": self.client}
        for name, (count, digest) in [("sent", self.sent), ("received", self.received)]:
            told[name] = [count, digest.hexdigest()]
        say(json.dumps(told))
        self.connection.close()


def serve(address):
    listener = socket.create_server(address)
    say("listening")
    while True:
        connection, (_, port) = listener.accept()
        side = Side(connection, port, port)
        threading.Thread(target=side.play, args=[True], daemon=True).start()


def connect(address, count):
    sides = []
    for number in range(count):
        connection = socket.create_connection(address)
        sides.append(Side(connection, connection.getsockname()[1], number))
    threads = [threading.Thread(target=side.play, args=[False]) for side in sides]
    for thread in threads:
        thread.start()
    say("connected")
    sys.stdin.read()
    for side in sides:
        side.over.set()
    for thread in threads:
        thread.join()
    say("done")


host, port = sys.argv[2].rsplit(":", 1)
if sys.argv[1] == "serve":
    serve((host, int(port)))
else:
    connect((host, int(port)), int(sys.argv[3]))
