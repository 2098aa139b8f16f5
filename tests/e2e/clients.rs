//! Client libraries of others, each used as its documentation says, and what docs/clients.md says of them.

mod installed;
mod subscriber;

use std::time::{Duration, Instant};
use std::{iter, thread};

use serde_json::json;

use crate::support::browser::Cutter;
use crate::support::relay::Relay;
use crate::support::tokens::{SUBSCRIBER, token};
use crate::support::{Server, Stream, wait_until};
use installed::Program;
use subscriber::Subscriber;

/// How long a library is watched that is not to ask again. Those that wait for less by themselves would do it meanwhile; of
/// those that wait for longer [`Refused::check_comes_back_soon`] shows that they do not when they are told a shorter time.
const WATCHED: Duration = Duration::from_secs(4);

/// Soon, but not so soon that one gives up meanwhile that waits twice as long each time, five times.
const SOON: [&str; 4] = ["--retry-min", "300ms", "--retry-max", "310ms"];

/// What a library does, as docs/clients.md tells it.
struct Library {
    program: Program,
    /// Its name to the program, and in the file of versions.
    key: &'static str,
    /// Connects again when its connection was cut, and resumes.
    after_a_cut: bool,
    /// Does something else than to wait as long as it is told when its stream ends in order.
    after_an_end: Next,
    after_503: Next,
    after_401: Next,
    /// Takes a header for its requests.
    header: bool,
    data: Data,
    /// Takes the end of a stream for an event without data.
    end_is_event: bool,
}

/// What a library does next.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Next {
    /// Asks again after the time that the stream said.
    WaitsAsTold,
    /// Asks again after a time of its own, of a second or more in the long run.
    Waits,
    /// Asks again at once, for ever.
    Hammers,
    GivesUp,
}

/// What comes of data of several lines, the second of which begins with a space.
#[derive(Clone, Copy)]
enum Data {
    Exact,
    WithoutIndents,
    LastLine,
}

/// What most do.
const USUAL: Library = Library {
    program: Program::Node,
    key: "",
    after_a_cut: true,
    after_an_end: Next::WaitsAsTold,
    after_503: Next::GivesUp,
    after_401: Next::GivesUp,
    header: true,
    data: Data::Exact,
    end_is_event: false,
};

/// What parses a stream, and leaves the rest to its user.
const PARSER: Library = Library { after_a_cut: false, after_an_end: Next::GivesUp, ..USUAL };

const PYTHON: Library = Library { program: Program::Python, ..USUAL };

/// Both raise an error when their connection is cut.
const AIOHTTP: Library = Library { after_a_cut: false, data: Data::WithoutIndents, ..PYTHON };

/// A test for each library, and a list of them.
macro_rules! libraries {
    ($($test:ident: $key:literal { $($fact:tt)* })*) => {
        const LIBRARIES: &[Library] = &[$(Library { key: $key, $($fact)* }),*];

        $(#[test]
        fn $test() {
            LIBRARIES.iter().find(|library| library.key == $key).unwrap().check();
        })*
    };
}

libraries! {
    eventsource_5: "eventsource" { ..USUAL }
    eventsource_4: "eventsource4" { ..USUAL }
    eventsource_2: "eventsource2" { after_503: Next::Waits, ..USUAL }
    eventsource_client: "eventsource-client" { after_503: Next::Waits, after_401: Next::Waits, ..USUAL }
    launchdarkly_eventsource: "launchdarkly-eventsource" { after_503: Next::Waits, ..USUAL }
    extended_eventsource: "extended-eventsource" { ..USUAL }
    undici: "undici" { after_an_end: Next::Waits, header: false, ..USUAL }
    event_source_polyfill: "event-source-polyfill" { ..USUAL }
    fetch_event_source: "@microsoft/fetch-event-source" {
        after_an_end: Next::GivesUp, after_503: Next::Waits, after_401: Next::Waits, ..USUAL
    }
    event_source_plus: "event-source-plus" {
        after_an_end: Next::Hammers,
        after_503: Next::Waits,
        after_401: Next::Waits,
        data: Data::LastLine,
        ..USUAL
    }
    sse_js: "sse.js" { after_503: Next::Waits, after_401: Next::Waits, ..USUAL }
    eventsource_parser: "eventsource-parser" { ..PARSER }
    httpx_sse: "httpx-sse" { program: Program::Python, ..PARSER }
    sseclient_py: "sseclient-py" { program: Program::Python, ..PARSER }
    sseclient: "sseclient" { end_is_event: true, ..PYTHON }
    requests_sse: "requests-sse" { data: Data::WithoutIndents, ..PYTHON }
    aiohttp_sse_client: "aiohttp-sse-client" { ..AIOHTTP }
    aiohttp_sse_client2: "aiohttp-sse-client2" { ..AIOHTTP }
}

impl Library {
    fn check(&self) {
        let hour = ["--retry-min", "1h", "--retry-max", "1h"];
        let moment = ["--retry-min", "10ms", "--retry-max", "20ms"];
        // These are watched for some seconds, while the rest is looked at.
        let full = self.refused_for_room(&hour);
        let unavailable = self.refused_for_room(&["--refuse-streams", "503"]);
        let unauthorized = self.refused_for_its_token();
        let all = [&full, &unavailable, &unauthorized];
        wait_until("each was refused once", || all.iter().all(|refused| refused.times() > 0));
        let since = Instant::now();

        self.check_events();
        self.check_end();
        self.check_token(&unauthorized.server);
        if self.after_an_end == Next::WaitsAsTold {
            self.refused_for_room(&moment).check_comes_back_soon();
        }

        thread::sleep(WATCHED.saturating_sub(since.elapsed()));
        full.check(self.after_an_end);
        unavailable.check(self.after_503);
        unauthorized.check(self.after_401);
    }

    /// A quiet stream is announced, nothing that is no event comes as one, events come as they were published, and none is
    /// lost or doubled when the connection is cut.
    fn check_events(&self) {
        let server = Server::start(&[&["--cores", "1", "--heartbeat", "100ms"][..], &SOON].concat());
        let relay = Relay::to(server.address);
        let url = format!("http://{}/subscribe/clients01", relay.address);
        let subscriber = Subscriber::start(self.program, self.key, &[&url]);
        subscriber.wait_for("open");

        let mut quiet = Stream::open(&server, "/subscribe/clients01");
        let mut heartbeats = 0;
        while heartbeats < 10 {
            heartbeats += quiet.read_some().unwrap().lines().filter(|line| *line == ":").count();
        }
        let published = [
            ("testing", r#"{"n":1}"#, server.publish("clients01", "event: testing\ndata: {\"n\":1}")),
            (
                "message",
                match self.data {
                    Data::Exact => "\u{fc}\u{1f600}\n indented",
                    Data::WithoutIndents => "\u{fc}\u{1f600}\nindented",
                    Data::LastLine => "indented",
                },
                server.publish("clients01", "data: \u{fc}\u{1f600}\ndata:  indented"),
            ),
            ("message", "last", server.publish("clients01", "id: my own id\ndata: last")),
        ];
        let mut expected = published.map(|(name, data, id)| json!([name, data, id])).to_vec();
        assert_eq!(subscriber.events(expected.len()), expected);

        relay.cut();
        let missed = ["one", "two", "three"].map(|data| {
            let id = server.publish("clients01", &format!("event: testing\ndata: {data}"));
            json!(["testing", data, id])
        });
        relay.mend();
        if self.after_a_cut {
            expected.extend(missed);
            assert_eq!(subscriber.events(expected.len()), expected);
            let id = server.publish("clients01", "data: more");
            expected.push(json!(["message", "more", id]));
        } else {
            subscriber.wait_for("end");
        }
        assert_eq!(subscriber.events(expected.len()), expected);
    }

    /// A stream that ends in order is resumed with the last id, by those that come back.
    fn check_end(&self) {
        let [server, next] = [(); 2].map(|()| Server::start(&[&["--cores", "1"][..], &SOON].concat()));
        let cutter = Cutter::start(server.address, || None);
        let subscriber = Subscriber::start(self.program, self.key, &[&cutter.url("/subscribe/clients01")]);
        subscriber.wait_for("open");
        let id = server.publish("clients01", "data: last");
        subscriber.events(1);
        cutter.point_to(next.address);
        assert!(server.stop().success());
        if self.after_an_end == Next::GivesUp {
            return subscriber.wait_for("end");
        }
        let mut expected = vec![("message", "last".to_owned())];
        if self.end_is_event {
            expected.push(("message", String::new()));
        }
        // The next server knows no ids of the last one.
        expected.push(("gap", format!(r#"{{"from":"{id}","reason":"unknown"}}"#)));
        let events = subscriber.events(expected.len());
        let events: Vec<_> = events.iter().map(|event| json!([event[0], event[1]])).collect();
        assert_eq!(json!(events), json!(expected));
    }

    /// A token in the URL gets in, and so does one in a header, where the library takes headers.
    fn check_token(&self, server: &Server) {
        let token = token(SUBSCRIBER, "clients01");
        let plain = server.url("/subscribe/clients01");
        let with_query = format!("{plain}?token={token}");
        let ways: [&[&str]; 2] = [&[&with_query], &[&plain, &token]];
        for way in ways.iter().take(if self.header { 2 } else { 1 }) {
            let subscriber = Subscriber::start(self.program, self.key, way);
            subscriber.wait_for("open");
            let id = server.publish("clients01", "data: hello");
            assert_eq!(subscriber.events(1), [json!(["message", "hello", id])]);
        }
    }

    /// Starts it where another stream has the only place.
    fn refused_for_room(&self, flags: &[&str]) -> Refused {
        let server = Server::start(&[&["--cores", "1", "--subscribers-max", "1"], flags].concat());
        let other = Stream::open(&server, "/subscribe/clients01");
        self.refused_at(server, Some(other))
    }

    /// Starts it without a token where one is asked for.
    fn refused_for_its_token(&self) -> Refused {
        let server = Server::start_with(&["--cores", "1"], &[("ESPER_SUBSCRIBER_SECRET", SUBSCRIBER)]);
        self.refused_at(server, None)
    }

    fn refused_at(&self, server: Server, other: Option<Stream>) -> Refused {
        let url = server.url("/subscribe/clients01");
        let (subscriber, since) = (Subscriber::start(self.program, self.key, &[&url]), Instant::now());
        Refused { server, subscriber, since, _other: other }
    }

    /// What docs/clients.md begins its row with.
    fn row(&self) -> String {
        let yes_or_no = |yes| if yes { "yes" } else { "no" };
        let reconnects = match (self.after_a_cut, self.after_an_end != Next::GivesUp) {
            (true, true) => "yes",
            (true, false) => "after a cut",
            (false, true) => "after an end",
            (false, false) => "no",
        };
        let resumes = yes_or_no(self.after_a_cut || self.after_an_end != Next::GivesUp);
        let heeds = match self.after_an_end {
            Next::GivesUp => "\u{2013}",
            next => yes_or_no(next == Next::WaitsAsTold),
        };
        let [after_503, after_401] = [self.after_503, self.after_401].map(|next| match next {
            Next::GivesUp => "gives up",
            _ => "tries again",
        });
        // It waits after a 503, and does not as it should after a 200.
        let wants_503 = self.after_an_end != Next::WaitsAsTold && self.after_503 == Next::Waits;
        let (name, version) = self.program.package(self.key);
        let cells = [
            &*format!("`{name}`"),
            &version,
            reconnects,
            resumes,
            yes_or_no(self.header),
            heeds,
            after_503,
            after_401,
            yes_or_no(wants_503),
        ];
        format!("| {} |", cells.join(" | "))
    }
}

/// A library that is refused its stream, again and again.
struct Refused {
    server: Server,
    subscriber: Subscriber,
    since: Instant,
    /// What takes the only place.
    _other: Option<Stream>,
}

impl Refused {
    fn times(&self) -> u64 {
        self.server.stats()["refused"].as_u64().unwrap()
    }

    /// Waits for two tries closer together than those of a library that waits for some seconds of its own.
    fn check_comes_back_soon(&self) {
        let mut tries = Vec::new();
        wait_until("it comes back when it is told to", || {
            let new = self.times() as usize - tries.len();
            tries.extend(iter::repeat_n(Instant::now(), new));
            tries.windows(2).any(|pair| pair[1] - pair[0] < Duration::from_millis(2900))
        });
    }

    /// Checks what it has done in the time for which it was watched. Told to wait, it was told to wait for an hour.
    fn check(&self, next: Next) {
        let times = self.times();
        match next {
            Next::WaitsAsTold => assert_eq!(times, 1, "{}", self.subscriber.said()),
            Next::GivesUp => {
                self.subscriber.wait_for("end");
                assert_eq!(times, 1, "{}", self.subscriber.said());
            }
            Next::Waits => {
                let seconds = self.since.elapsed().as_secs();
                assert!(times < 20 + 2 * seconds, "{times} in {seconds} s: {}", self.subscriber.said());
                wait_until("it asks again", || self.times() > 1);
            }
            Next::Hammers => wait_until("it asks again and again", || self.times() >= 100),
        }
    }
}

#[test]
fn docs_clients_md_has_a_row_for_each_library_with_what_it_does() {
    let lines = include_str!("../../docs/clients.md").lines();
    let rows: Vec<_> = lines.filter(|line| line.starts_with("| `")).collect();
    assert_eq!(rows.len(), LIBRARIES.len());
    for library in LIBRARIES {
        let row = library.row();
        assert!(rows.iter().any(|line| line.starts_with(&row)), "docs/clients.md has no row {row}");
    }
}
