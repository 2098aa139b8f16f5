//! One subscriber's response, from the first byte of its head on, and what a reader learns from all of them.

use crate::count::{Counted, Counter, EventLine};
use crate::http::{Body, HEAD_BYTES_MAX, ResponseHead};
use crate::plan::{Plan, Role};
use crate::sequence::{Arrival, Series};
use crate::tally::Tally;
use crate::verify::{Found, Verifier};

/// The body of one subscriber's response.
pub(crate) struct Stream {
    body: Body,
    scan: Scan,
    /// Different events that came; when only counting, all that came.
    pub(crate) received: u64,
}

enum Scan {
    Count(Counter),
    /// Boxed: three times the size of the other.
    Verify(Box<(Verifier, Vec<Series>)>),
}

/// What a reader keeps beside its subscribers, apart so that a subscriber and this can be borrowed together.
pub(crate) struct Reader<'a> {
    plan: &'a Plan,
    event_line: EventLine,
    pub(crate) tally: Tally,
}

impl Stream {
    /// Events left out between the first and the last that came. Only known when verifying.
    pub(crate) fn missed_within(&self) -> u64 {
        match &self.scan {
            Scan::Count(_) => 0,
            Scan::Verify(state) => state.1.iter().map(Series::missing_since_first).sum(),
        }
    }
}

impl<'a> Reader<'a> {
    /// Nothing read yet.
    pub(crate) fn new(plan: &'a Plan) -> Reader<'a> {
        Reader { plan, event_line: EventLine::new(), tally: Tally::default() }
    }

    /// Takes all bytes of the response so far; with the end of its head the stream begins. An error means that the server
    /// gives no stream.
    pub(crate) fn head(
        &mut self,
        topic: u32,
        role: Role,
        bytes: &[u8],
        now_ns: u64,
    ) -> Result<Option<Stream>, String> {
        let mut rest = bytes;
        let response = loop {
            let Some(response) = ResponseHead::read(rest)? else {
                if bytes.len() > 2 * HEAD_BYTES_MAX {
                    return Err("the server's response head does not end".to_owned());
                }
                return Ok(None);
            };
            rest = rest.get(response.head_bytes..).unwrap_or_default();
            if response.status >= 200 {
                break response;
            }
        };
        if response.status != 200 {
            let line = first_line(response.body, rest);
            return Err(format!("the server answered {}{line}", response.status));
        }
        if !response.event_stream {
            return Err("the server answered 200 without Content-Type: text/event-stream".to_owned());
        }
        let scan = if self.plan.verify {
            let series = (0..self.plan.publishing.connections).map(|_| Series::default()).collect();
            Scan::Verify(Box::new((Verifier::default(), series)))
        } else {
            Scan::Count(Counter::new())
        };
        let mut stream = Stream { body: response.body, scan, received: 0 };
        self.body(topic, role, &mut stream, rest, now_ns)?;
        Ok(Some(stream))
    }

    /// Takes bytes of the body. An error means that the stream is over.
    pub(crate) fn body(
        &mut self,
        topic: u32,
        role: Role,
        stream: &mut Stream,
        mut bytes: &[u8],
        now_ns: u64,
    ) -> Result<(), String> {
        let tally = &mut self.tally;
        let mut counted = Counted::default();
        let over = loop {
            let piece = match stream.body.next(&mut bytes) {
                Ok(Some(piece)) => piece,
                Ok(None) => break stream.body.ended().then(|| "the server ended the stream".to_owned()),
                Err(why) => break Some(why),
            };
            match &mut stream.scan {
                Scan::Count(counter) => counter.feed(piece, &self.event_line, &mut counted),
                Scan::Verify(state) => {
                    let (verifier, series) = &mut **state;
                    verifier.feed(piece, &self.plan.payload, |found| match found {
                        Found::Gap => tally.gaps += 1,
                        Found::Corrupt => tally.corrupt += 1,
                        Found::Event(stamp) => {
                            let series = series.get_mut(usize::from(stamp.publisher));
                            let Some(series) = series.filter(|_| stamp.topic == topic) else {
                                tally.corrupt += 1;
                                return;
                            };
                            tally.delivered(role, 1, now_ns);
                            tally.latency(now_ns, stamp.due_ns);
                            match series.arrive(stamp.sequence) {
                                Arrival::InOrder => stream.received += 1,
                                Arrival::Reordered => {
                                    stream.received += 1;
                                    tally.reordered += 1;
                                }
                                Arrival::Doubled => tally.doubled += 1,
                            }
                        }
                    });
                }
            }
        };
        if counted.events > 0 {
            stream.received += counted.events;
            tally.delivered(role, counted.events, now_ns);
            for due_ns in [counted.first_due_ns, counted.last_due_ns].into_iter().flatten() {
                tally.latency(now_ns, due_ns);
            }
        }
        tally.gaps += counted.gaps;
        over.map_or(Ok(()), Err)
    }
}

/// `: <first line>` of a refusal's body, as far as it came with its head.
fn first_line(mut body: Body, mut rest: &[u8]) -> String {
    let piece = body.next(&mut rest).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(piece);
    let line: String =
        text.lines().next().unwrap_or("").chars().filter(|c| !c.is_control()).take(200).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}
