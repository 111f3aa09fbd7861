# SPDX-License-Identifier: Apache-2.0
"""A server that changes the protocol with 101 and then says again what it is told, and its client.

Arguments: `serve` or `talk`, an IP address, a port. The client ends well if it was told what it said.
"""

import socket
import sys
import threading

WORDS = [b"x" * 300] * 20


def head(stream):
    text = b""
    while not text.endswith(b"\r\n\r\n"):
        text += stream.recv(1)
    return text


def answer(stream):
    with stream:
        head(stream)
        stream.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        while said := stream.recv(4096):
            stream.sendall(said)


def serve(address):
    listener = socket.create_server(address)
    print("listening on", *address, flush=True)
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=answer, args=(stream,), daemon=True).start()


def talk(address):
    with socket.create_connection(address) as stream:
        stream.sendall(b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        if not head(stream).startswith(b"HTTP/1.1 101 "):
            sys.exit("no 101")
        for word in WORDS:
            stream.sendall(word)
            if stream.recv(len(word), socket.MSG_WAITALL) != word:
                sys.exit("something else was said")


{"serve": serve, "talk": talk}[sys.argv[1]]((sys.argv[2], int(sys.argv[3])))
