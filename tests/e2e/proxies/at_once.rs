//! That a stream on which nothing happens is announced at once, and its first event handed on at once, through proxies of
//! every kind, which compress if they can.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::{CADDY, HAPROXY, NGINX_MINIMAL};
use crate::support::proxy::{Proxy, apache, caddy, development, haproxy, lighttpd, nginx, replace};
use crate::support::{Answer, PATIENCE, Server, exchange, wait_until};

const APACHE: &str = "
<VirtualHost *:80>
    SetOutputFilter DEFLATE
    ProxyPass / http://127.0.0.1:3000/
</VirtualHost>
";

/// The first line is the one that docs/deploy.md asks for.
const LIGHTTPD: &str = r#"
server.stream-response-body = 1
server.modules = ( "mod_proxy" )
proxy.server = ( "" => ( ( "host" => "127.0.0.1", "port" => 3000 ) ) )
"#;

type Start = fn(SocketAddr) -> Proxy;

/// Which proxy, and whether it compresses a stream although esper forbids it. All but lighttpd are told to compress: its
/// module for that is in a package of its own.
const PROXIES: &[(&str, Start, bool)] = &[
    ("Apache", |server| apache(APACHE, server), true),
    ("nginx", start_nginx, true),
    ("HAProxy", start_haproxy, false),
    ("Caddy", |server| caddy(CADDY, server), false),
    ("lighttpd", start_lighttpd, false),
    ("a development proxy", development, false),
];

fn start_nginx(server: SocketAddr) -> Proxy {
    let gzip = "http { gzip on; gzip_types text/event-stream; gzip_min_length 0;";
    nginx(&replace(NGINX_MINIMAL, "http {", gzip), [server; 2])
}

fn start_haproxy(server: SocketAddr) -> Proxy {
    let defaults = "defaults\n    compression algo gzip\n    compression type text/event-stream\n";
    haproxy(&replace(HAPROXY, "defaults\n", defaults), [server; 2])
}

fn start_lighttpd(server: SocketAddr) -> Proxy {
    let config = replace(LIGHTTPD, r#""port" => 3000"#, &format!(r#""port" => {}"#, server.port()));
    lighttpd(&config)
}

/// Nothing is sent after the first bytes and after each event: a proxy that waits for more would wait for ever.
#[test]
fn a_quiet_stream_and_each_event_come_through_every_proxy_at_once() {
    for (name, start, is_compressed) in PROXIES {
        let server = Server::start(&["--heartbeat", "0s"]);
        let proxy = start(server.address);
        let mut client = Client::subscribe(&proxy, "atonce01");
        let head: Vec<String> =
            std::iter::from_fn(|| Some(client.line())).take_while(|line| !line.is_empty()).collect();
        assert!(head[0].starts_with("HTTP/1.1 200"), "{name}: {head:?}");
        let is_gzip = head.iter().any(|line| line.eq_ignore_ascii_case("content-encoding: gzip"));
        assert_eq!(is_gzip, *is_compressed, "{name}: {head:?}");
        let first = client.line();
        assert!(first.starts_with("retry:"), "{name}: {first}");
        for n in 0..3 {
            let id = server.publish("atonce01", &format!("data: {n}"));
            let lines = [client.line(), client.line(), client.line()];
            assert_eq!(lines, [format!("data: {n}"), format!("id:{id}"), String::new()], "{name}");
        }
    }
}

#[test]
fn a_client_of_caddy_that_leaves_frees_its_place_at_once() {
    let server = Server::start(&["--heartbeat", "0s"]);
    let proxy = caddy(CADDY, server.address);
    let stream = proxy.subscribe("leaving01", "");
    assert_eq!(server.stats()["clients"], 1);
    drop(stream);
    wait_until("its place is free", || server.stats()["clients"] == 0);
}

#[test]
fn caddy_tells_a_source_to_come_back_while_esper_is_away_and_shows_nothing_from_inside() {
    let server = Server::start(&[]);
    let proxy = caddy(CADDY, server.address);
    let get = |path: &str| Answer::parse(&exchange(proxy.address, "GET", path, &[], ""));
    for path in
        ["/admin", "/admin/", "/%61dmin/events", "/ADMIN/", "/metrics", "/stat%73", "/debug/vars", "//stats"]
    {
        assert_eq!(get(path).status, 404, "{path}");
    }
    assert_eq!(get("/healthz").status, 200);
    assert!(server.stop().success());
    for path in ["/subscribe/caddy001", "/subscribe?topic=caddy001"] {
        let answer = get(path);
        assert_eq!((answer.status, answer.field("Content-Type")), (200, Some("text/event-stream")), "{path}");
        assert_eq!(
            (&*answer.body, answer.field("Access-Control-Allow-Origin")),
            ("retry:3000\n", Some("*")),
            "{path}"
        );
    }
    assert_eq!(proxy.publish("caddy001", "data: x").status, 502);
}

/// curl, which undoes what a proxy compressed as it comes.
struct Client {
    curl: Child,
    reader: BufReader<ChildStdout>,
}

impl Client {
    fn subscribe(proxy: &Proxy, topic: &str) -> Client {
        let url = format!("http://{}/subscribe/{topic}", proxy.address);
        let mut command = Command::new("curl");
        command.args(["-sSNi", "--compressed", "--noproxy", "*"]).args([
            "--max-time",
            &seconds(PATIENCE),
            &url,
        ]);
        let mut curl =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("curl is installed");
        let reader = BufReader::new(curl.stdout.take().unwrap());
        Client { curl, reader }
    }

    /// The next line of the head or the body, without its end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.reader.read_line(&mut line).unwrap() > 0, "no line in {PATIENCE:?}");
        line.trim_end_matches(['\r', '\n']).to_owned()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

fn seconds(time: Duration) -> String {
    time.as_secs().to_string()
}
