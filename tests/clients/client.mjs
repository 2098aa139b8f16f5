// Subscribes with one of the libraries, and prints a line of JSON for each thing that it is told:
//
//   node client.mjs LIBRARY URL [TOKEN]
//
//   {"saw":"open"}
//   {"saw":"event","event":"message","data":"hello","id":"14695981039346656037-1"}
//   {"saw":"error","text":"..."}     It may come back.
//   {"saw":"end","text":"..."}       It does not come back by itself.
//
// A TOKEN goes into the header Authorization. Each library is used as its own documentation does.

const [library, url, token] = process.argv.slice(2);
const headers = token ? { Authorization: `Bearer ${token}` } : {};

const say = (saw, more) => console.log(JSON.stringify({ saw, ...more }));
const open = () => say('open');
const event = (name, data, id) => say('event', { event: name || 'message', data, id: id ?? '' });
const error = (text) => say('error', { text: String(text) });
const end = (text) => say('end', { text: String(text) });

// What has the interface of the browsers' EventSource, and whether its errors may be the end of it.
function listen(source, mayEnd = true) {
    source.addEventListener('open', open);
    for (const name of ['message', 'testing', 'gap']) {
        source.addEventListener(name, (seen) => event(seen.type, seen.data, seen.lastEventId));
    }
    source.addEventListener('error', (seen) => {
        // Some set what state they are in after they have told their listeners.
        setImmediate(() => {
            const isEnd = mayEnd && source.readyState === 2;
            (isEnd ? end : error)(seen.message ?? seen.status ?? 'error');
        });
    });
}

// As the documentation of eventsource has it since version 3.
const withHeaders = { fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, ...headers } }) };

// As much of XMLHttpRequest as sse.js uses.
class Request extends EventTarget {
    static HEADERS_RECEIVED = 2;
    headers = {};
    responseText = '';

    open(method, url) {
        Object.assign(this, { method, url });
    }

    setRequestHeader(name, value) {
        this.headers[name] = value;
    }

    getAllResponseHeaders() {
        return [...this.response.headers].map(([name, value]) => `${name}: ${value}`).join('\r\n');
    }

    async send() {
        try {
            this.response = await fetch(this.url, { method: this.method, headers: this.headers });
            Object.assign(this, { status: this.response.status, readyState: Request.HEADERS_RECEIVED });
            this.dispatchEvent(new Event('readystatechange'));
            this.readyState = 3;
            for await (const text of this.response.body.pipeThrough(new TextDecoderStream())) {
                this.responseText += text;
                this.dispatchEvent(new Event('progress'));
            }
            this.dispatchEvent(new Event('load'));
        } catch {
            this.dispatchEvent(new Event('error'));
        }
    }
}

const libraries = {
    async eventsource() {
        const { EventSource } = await import('eventsource');
        listen(new EventSource(url, withHeaders));
    },

    async eventsource4() {
        const { EventSource } = await import('eventsource4');
        listen(new EventSource(url, withHeaders));
    },

    async eventsource2() {
        const { default: EventSource } = await import('eventsource2');
        listen(new EventSource(url, { headers }));
    },

    async 'launchdarkly-eventsource'() {
        const { EventSource } = await import('launchdarkly-eventsource');
        listen(new EventSource(url, { headers }));
    },

    async 'extended-eventsource'() {
        const { EventSource } = await import('extended-eventsource');
        listen(new EventSource(url, { headers }));
    },

    async 'event-source-polyfill'() {
        const { EventSourcePolyfill } = await import('event-source-polyfill');
        listen(new EventSourcePolyfill(url, { headers }));
    },

    // It takes no headers.
    async undici() {
        const { EventSource } = await import('undici');
        listen(new EventSource(url));
    },

    async 'eventsource-client'() {
        const { createEventSource } = await import('eventsource-client');
        createEventSource({
            url,
            headers,
            onConnect: open,
            onMessage: ({ event: name, data, id }) => event(name, data, id),
            onScheduleReconnect: ({ delay }) => error(`again in ${delay} ms`),
        });
    },

    async 'event-source-plus'() {
        const { EventSourcePlus } = await import('event-source-plus');
        new EventSourcePlus(url, { headers }).listen({
            onMessage: ({ event: name, data, id }) => event(name, data, id),
            onResponse: ({ response }) => response.ok && open(),
            onRequestError: ({ error: why }) => error(why),
            onResponseError: ({ error: why }) => error(why),
        });
    },

    // It is made for pages.
    async '@microsoft/fetch-event-source'() {
        globalThis.window = globalThis;
        globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
        const { fetchEventSource } = await import('@microsoft/fetch-event-source');
        const ended = fetchEventSource(url, {
            headers,
            onopen: async ({ ok, status }) => {
                if (!ok) throw new Error(`status ${status}`);
                open();
            },
            onmessage: ({ event: name, data, id }) => event(name, data, id),
            onerror: (why) => void error(why),
        });
        ended.then(() => end('the stream has ended'), end);
    },

    // Made for pages as well.
    async 'sse.js'() {
        globalThis.XMLHttpRequest = Request;
        globalThis.CustomEvent ??= class extends Event {};
        const { SSE } = await import('sse.js');
        listen(new SSE(url, { headers, autoReconnect: true }), false);
    },

    // A parser, with the request around it that its user writes.
    async 'eventsource-parser'() {
        const { createParser } = await import('eventsource-parser');
        const parser = createParser({ onEvent: ({ event: name, data, id }) => event(name, data, id) });
        try {
            const response = await fetch(url, { headers });
            if (!response.ok) throw new Error(`status ${response.status}`);
            open();
            for await (const text of response.body.pipeThrough(new TextDecoderStream())) parser.feed(text);
            end('the stream has ended');
        } catch (why) {
            end(why);
        }
    },
};

// A wait for the next try does not keep Node running by itself, in some.
setInterval(() => {}, 2 ** 30);
await libraries[library]();
