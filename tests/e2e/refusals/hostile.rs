//! Requests that mean harm, or are no requests at all.

use std::thread;
use std::time::{Duration, Instant};

use super::{chunked, get};
use crate::support::{Client, Server, Stream, check_refusal, publish_request, wait_until};

#[test]
fn nothing_is_smuggled_past_a_proxy_that_reads_lengths_in_another_way() {
    // Each hides a publish where some server would take it for a request of its own.
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/subscribe/smuggled1");
    let hidden = publish_request("/publish/smuggled1", "", "data: smuggled");
    let head = "POST /publish/smuggled2 HTTP/1.1\r\nHost: h\r\n";
    let size = hidden.len();
    for shape in [
        format!("{head}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding: chunked\r\nContent-Length: {size}\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding:\u{b}chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{head}Content-Length: 0\r\nContent-Length: {size}\r\n\r\n{hidden}"),
        format!("{head}Content-Length: 0, {size}\r\n\r\n{hidden}"),
        format!("{head}Content-Length: +{size}\r\n\r\n{hidden}"),
        format!("{head}Content-Length: {size}\r\n\r\n{hidden}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{hidden}\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n0\r\n{hidden}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n1;\n{hidden}\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n0\n\n{hidden}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n-1\r\n{hidden}\r\n0\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n{hidden}"),
        format!(
            "GET /nowhere HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{hidden}\r\n0\r\n\r\n"
        ),
        format!("GET /healthz HTTP/1.1\r\nHost: h\r\nX: \r\n\r {hidden}"),
        format!("GET /healthz HTTP/1.0\r\n\r\n{hidden}"),
        format!("GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n{hidden}"),
        format!("GET /subscribe/smuggled2 HTTP/1.1\r\nHost: h\r\n\r\n{hidden}"),
    ] {
        server.raw(&shape);
    }
    server.post("/publish/smuggled1", "data: honest");
    assert_eq!(stream.event().data, "honest");
    assert_eq!(server.stats()["published"], 1);
}

#[test]
fn a_tls_handshake_is_told_at_once_that_this_is_plain_http() {
    let server = Server::start(&["--head-timeout", "10m"]);
    // The start of a ClientHello; the client then waits for the server's.
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend([0xa5; 100]);
    let mut client = Client::new(&server);
    check_refusal(&client.ask(hello), 400, "not HTTP: send plain HTTP/1.1, not TLS");
    client.assert_closed();
}

#[test]
fn random_bytes_do_not_take_the_server_down() {
    // A pipeline of everything, with bytes changed, added, removed or doubled at random.
    let mut server = Server::start(&["--topics-max", "100"]);
    let pipeline = [
        publish_request("/publish/mutated01", "Content-Type: application/json\r\n", "{\"a\":1}"),
        chunked("5;x=y\r\ndata:\r\n3\r\nabc\r\n0\r\nT: u\r\n\r\n"),
        publish_request("/publish/mutated01?wrap&event=%65&id=1", "Expect: 100-continue\r\n", "a\r\nb\rc"),
        get("/stats") + &get("/healthz?x=%20") + &get("/nowhere").replace("GET", "OPTIONS"),
        publish_request(
            "/publish/mutated02",
            "Cookie: esper_token=a.b.c\r\n",
            "id: 1\ndata: x\r\n\r\ndata: y",
        ),
        get("/subscribe/mutated01?lastEventId=1&token=t"),
    ]
    .concat()
    .into_bytes();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let start = Instant::now();
    thread::scope(|scope| {
        for part in 0..4 {
            let (server, pipeline) = (&server, &pipeline);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed ^ part);
                for _ in 0..2500 {
                    // Enough for a slow machine; how many were tried is no promise.
                    if start.elapsed() > Duration::from_secs(10) {
                        return;
                    }
                    let mutated = mutate(pipeline, &mut random);
                    let answer = server.raw(&mutated);
                    let is_http = answer.is_empty() || answer.starts_with("HTTP/1.1 ");
                    assert!(is_http, "{:?} got {answer:?}", String::from_utf8_lossy(&mutated));
                    assert!(!answer.contains("HTTP/1.1 503"), "{answer:?}");
                }
            });
        }
    });
    assert!(server.is_running());
    assert!(!server.log().contains("panicked"), "{}", server.log());
    let mut stream = Stream::open(&server, "/subscribe/mutated03");
    server.post("/publish/mutated03", "data: well");
    assert_eq!(stream.event().data, "well");
    drop(stream);
    wait_until("no stream is left over", || server.stats()["clients"] == 0);
    assert!(server.stop().success());
}

fn mutate(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..random.usize(1..6) {
        if out.is_empty() {
            break;
        }
        let at = random.usize(..out.len());
        let interesting = b"\r\n\0 :;%/?&=0fF\t\x7f\xff,";
        match random.u8(..6) {
            0 => out[at] = random.u8(..),
            1 => out[at] = interesting[random.usize(..interesting.len())],
            2 => out.insert(at, interesting[random.usize(..interesting.len())]),
            3 => drop(out.remove(at)),
            4 => out.truncate(at.max(1)),
            _ => {
                let end = (at + random.usize(..64)).min(out.len());
                let doubled = out[at..end].to_vec();
                out.splice(at..at, doubled);
            }
        }
    }
    out
}
