"""Subscribes with one of the libraries, and prints a line of JSON for each thing that it is told:

    python3 client.py LIBRARY URL [TOKEN]

client.mjs says what the lines are. A TOKEN goes into the header Authorization.
"""

import asyncio
import importlib.util
import json
import os
import sys

library, url, *token = sys.argv[1:]
headers = {"Authorization": f"Bearer {token[0]}"} if token else {}

# Some libraries print what they come across.
lines, sys.stdout = sys.stdout, sys.stderr


def say(saw, **more):
    print(json.dumps({"saw": saw, **more}), file=lines, flush=True)


def opened():
    say("open")


def event(name, data, id):
    say("event", event=name or "message", data=data, id=id or "")


def failed():
    say("error", text="it may come back")


def httpx_sse():
    import httpx
    from httpx_sse import connect_sse

    with httpx.Client(timeout=None) as client, connect_sse(client, "GET", url, headers=headers) as source:
        source.response.raise_for_status()
        opened()
        for seen in source.iter_sse():
            event(seen.event, seen.data, seen.id)


def sseclient_py():
    import requests
    import sseclient

    response = requests.get(url, headers={"Accept": "text/event-stream", **headers}, stream=True)
    response.raise_for_status()
    opened()
    for seen in sseclient.SSEClient(response).events():
        event(seen.event, seen.data, seen.id)


def sseclient():
    # sseclient-py has the name `sseclient` too, and as a package it is found first.
    folder = next(path for path in sys.path if os.path.exists(f"{path}/sseclient.py"))
    spec = importlib.util.spec_from_file_location("sseclient_of_btubbs", f"{folder}/sseclient.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    messages = module.SSEClient(url, headers=headers)
    opened()
    for seen in messages:
        event(seen.event, seen.data, seen.id)


def requests_sse():
    from requests_sse import EventSource

    with EventSource(url, headers=headers, on_open=opened, on_error=failed) as source:
        for seen in source:
            event(seen.type, seen.data, seen.last_event_id)


def of_aiohttp(EventSource):
    async def subscribe():
        async with EventSource(url, headers=dict(headers), on_open=opened, on_error=failed) as source:
            async for seen in source:
                event(seen.type, seen.data, seen.last_event_id)

    asyncio.run(subscribe())


def aiohttp_sse_client():
    from aiohttp_sse_client.client import EventSource

    of_aiohttp(EventSource)


def aiohttp_sse_client2():
    from aiohttp_sse_client2.client import EventSource

    of_aiohttp(EventSource)


try:
    globals()[library.replace("-", "_")]()
    say("end", text="the stream has ended")
except Exception as why:
    say("end", text=repr(why))
