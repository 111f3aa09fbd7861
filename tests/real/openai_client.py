# SPDX-License-Identifier: Apache-2.0
"""Chat completions through the openai SDK, one after the other over the SDK's own pool of connections.

The SDK stops reading at `[DONE]`, and closes the connection if the end of the body did not come with it: with uvicorn, which
writes that end by itself, a streamed answer that is complete mostly costs its connection.

After the last one it waits for the end of standard input with the pool open.
"""

import argparse
import sys

import openai

import trust
import truth


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", required=True, help="with /v1")
    parser.add_argument("--requests", type=int, default=1)
    parser.add_argument("--whole", action="store_true", help="ask for an answer in one piece")
    parser.add_argument("--prompt-bytes", type=int, default=64)
    parser.add_argument("--authority", help="PEM file of the certificate to trust")
    return parser.parse_args()


def kind_of(chunk) -> str:
    choice = chunk.choices[0]
    if choice.finish_reason:
        return "finish"
    return "token" if choice.delta.content else "role"


def main() -> None:
    args = options()
    # The hook runs when the headers are in: the first that a client of the SDK can see of an answer.
    number = 0
    hooks = {"response": [lambda _: truth.log("first_byte", number)]}
    verify = trust.context(args.authority)
    pool = openai.DefaultHttpxClient(event_hooks=hooks, verify=verify)
    # A retry would be a request that the log does not have.
    client = openai.OpenAI(base_url=args.base_url, api_key="unused", max_retries=0, http_client=pool)
    messages = [{"role": "user", "content": "x" * args.prompt_bytes}]
    for number in range(args.requests):
        truth.log("request", number)
        answer = client.chat.completions.create(model="scripted", messages=messages, stream=not args.whole)
        if args.whole:
            truth.log("chunk", number, kind="body", bytes=len(answer.choices[0].message.content))
        else:
            for chunk in answer:
                text = chunk.choices[0].delta.content or ""
                truth.log("chunk", number, kind=kind_of(chunk), bytes=len(text))
        truth.log("end", number, outcome="ok")
    truth.log("idle", args.requests)
    sys.stdin.read()


main()
