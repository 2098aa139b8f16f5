//! One subscriber's response, from the first byte of its head on, and what a reader learns from all of them.

use crate::churn::{Course, Missed, Stay};
use crate::count::{Counted, Counter, EventLine};
use crate::http::{Body, HEAD_BYTES_MAX, ResponseHead, first_line};
use crate::plan::{Plan, Role};
use crate::sequence::Series;
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
    Verify(Box<Verified>),
}

struct Verified {
    verifier: Verifier,
    /// By publisher.
    series: Vec<Series>,
    /// Of those that come and go.
    stay: Option<Stay>,
}

/// The state a reader keeps beside its subscribers, apart so that a subscriber and this can be borrowed together.
pub(crate) struct Reader<'a> {
    plan: &'a Plan,
    event_line: EventLine,
    pub(crate) tally: Tally,
}

impl Stream {
    /// Returns what a subscriber that comes and goes did not get until it left. Only known when verifying, and without a
    /// course only what is missing between the first and the last that came.
    pub(crate) fn missed(&self, course: Option<&Course>, topic: u32, left_ns: u64) -> Missed {
        let Scan::Verify(state) = &self.scan else { return Missed::default() };
        let within: u64 = state.series.iter().map(Series::missing_since_first).sum();
        let missed = match (&state.stay, course) {
            (Some(stay), Some(course)) => stay.missed(course, topic, left_ns),
            _ => Missed { events: 0, of: self.received + within },
        };
        Missed { events: missed.events.max(within), of: missed.of.max(within) }
    }
}

impl<'a> Reader<'a> {
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
        let begun = match &self.plan.wire {
            None => response_body(bytes)?,
            Some(wire) => wire.subscribed(bytes)?.map(|rest| (Body::UntilClose, rest)),
        };
        let Some((body, rest)) = begun else { return Ok(None) };
        let scan = if self.plan.flags.verify {
            let series = (0..self.plan.flags.publishers).map(|_| Series::default()).collect();
            let stay = (role == Role::Churning).then(|| Stay::new(now_ns));
            Scan::Verify(Box::new(Verified { verifier: Verifier::default(), series, stay }))
        } else {
            Scan::Count(Counter::default())
        };
        let mut stream = Stream { body, scan, received: 0 };
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
                    let Verified { verifier, series, stay } = &mut **state;
                    verifier.feed(piece, &self.plan.payload, |found| match found {
                        Found::Gap => tally.gaps += 1,
                        Found::Corrupt => tally.corrupt += 1,
                        Found::Event(stamp) => {
                            let series = series.get_mut(usize::from(stamp.publisher));
                            let Some(series) = series.filter(|_| stamp.topic == topic) else {
                                tally.corrupt += 1;
                                return;
                            };
                            if tally.arrived(role, series, &stamp, now_ns) {
                                stream.received += 1;
                                stay.iter_mut().for_each(|stay| stay.came(stamp.due_ns));
                            }
                        }
                    });
                }
            }
        };
        if counted.events > 0 {
            stream.received += counted.events;
            tally.delivered(role, counted.events, now_ns);
            if let Some(first_due_ns) = counted.first_due_ns {
                let last_due_ns = counted.last_due_ns.unwrap_or(first_due_ns);
                tally.latencies(now_ns, (first_due_ns, last_due_ns), counted.events);
            }
        }
        tally.gaps += counted.gaps;
        over.map_or(Ok(()), Err)
    }
}

/// Skips the response's head. Returns how its body is delimited and the bytes of it that came, or `None` while the head is
/// not whole.
///
/// # Errors
/// The head cannot be read, does not end, or is no success.
fn response_body(bytes: &[u8]) -> Result<Option<(Body, &[u8])>, String> {
    let mut rest = bytes;
    let mut response = loop {
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
        let line = first_line(response.body.next(&mut rest).ok().flatten().unwrap_or_default());
        let colon = if line.is_empty() { "" } else { ": " };
        return Err(format!("the server answered {}{colon}{line}", response.status));
    }
    if !response.event_stream {
        return Err("the server answered 200 without Content-Type: text/event-stream".to_owned());
    }
    Ok(Some((response.body, rest)))
}
