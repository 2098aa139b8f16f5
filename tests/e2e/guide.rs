//! The commands of docs/guide.md, run as they stand there. Those of queues are beside the tests of queues, and the page's
//! script beside those of the browser.

use serde_json::Value;

use crate::readme::{Background, bash, block, fence, without_run};
use crate::support::proxy::{apache, nginx};
use crate::support::sessions::{Sessions, stream_at};
use crate::support::{Server, esper, eventually};

pub(crate) const GUIDE: &str = include_str!("../../docs/guide.md");

#[test]
fn the_first_steps_print_what_the_guide_shows() {
    let server = Server::start(&[]);
    let address = server.address.to_string();
    let here = |name: &str| block(GUIDE, name).replace("127.0.0.1:3000", &address);

    let subscriber = Background::start(&here("subscribe"));
    eventually("curl is subscribed", || (server.stats()["clients"] == 1).then_some(()));
    let answer = without_run(&bash(&here("publish"), &[]));
    let shown = answer.trim_end().replace("RUN", "14695981039346656037");
    assert!(GUIDE.contains(&format!("`{shown}`")), "{answer}");
    let printed = without_run(fence(GUIDE, "and the subscriber prints:")) + "\n";
    let got = eventually("curl prints the event", || {
        let got = subscriber.printed();
        got.ends_with("\n\n").then_some(got)
    });
    assert_eq!(without_run(&got), printed);

    assert_eq!(without_run(&bash(&here("publish-json"), &[])), "{\"id\":\"RUN-2\",\"events\":1}\n");
    let again = "event:testing\ndata:{\"some\":\"data\"}\nid:RUN-2\n\n";
    let got = eventually("curl prints both events", || {
        Some(without_run(&subscriber.printed())).filter(|got| got.matches("\n\n").count() == 2)
    });
    assert_eq!(got, format!("{printed}{again}"));

    let replayed = without_run(&bash(&here("replay"), &[]));
    let gap = "event:gap\ndata:{\"from\":\"0\",\"reason\":\"unknown\"}\n\n";
    let (retry, first) = printed.split_once('\n').unwrap();
    assert_eq!(replayed, format!("{retry}\n{gap}{first}{again}"));
}

#[test]
fn with_namespaces_a_parent_and_a_stream_of_several_topics_get_what_the_guide_publishes() {
    let server = Server::start(&["--namespaces"]);
    let address = server.address.to_string();
    let here = |name: &str| block(GUIDE, name).replace("127.0.0.1:3000", &address);

    let streams = [Background::start(&here("subscribe-namespace")), Background::start(&here("several"))];
    eventually("both are subscribed", || (server.stats()["clients"] == 2).then_some(()));
    assert_eq!(without_run(&bash(&here("publish-namespace"), &[])), "{\"id\":\"RUN-1\",\"events\":1}\n");
    let [parent, several] = streams.map(|stream| {
        let got = eventually("curl prints the event", || {
            Some(stream.printed()).filter(|printed| printed.ends_with("\n\n"))
        });
        without_run(&got)
    });
    assert_eq!(parent, "retry:RANDOM\nevent:new-dog\ndata:Corgi\nid:RUN-1\n\n");
    // A position: which CPUs are in it depends on where the topics are.
    let position =
        several.strip_prefix("retry:RANDOM\nevent:new-dog\ndata:Corgi\nid:RUN-").expect("a position");
    assert!(position.contains(".1"), "{several}");
}

/// That example is compiled and run, as a doctest.
#[test]
fn the_guide_embeds_as_the_page_of_the_crate_does() {
    let lines = include_str!("../../src/lib.rs").lines().map_while(|line| line.strip_prefix("//!"));
    let page: String = lines.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect();
    assert!(page.contains(&format!("```\n{}", block(GUIDE, "embed"))), "{page}");
}

#[test]
fn a_token_made_in_a_shell_publishes_and_subscribes() {
    let script = format!(
        "{}\nprintf '%s %s' \"$ESPER_SUBSCRIBER_SECRET\" \"$ESPER_PUBLISHER_SECRET\"",
        block(GUIDE, "secrets")
    );
    let secrets = bash(&script, &[]);
    let (subscriber, publisher) = secrets.split_once(' ').unwrap();
    assert!(subscriber.len() == 64 && publisher.len() == 64 && subscriber != publisher, "{secrets}");
    let variables = [("ESPER_SUBSCRIBER_SECRET", subscriber), ("ESPER_PUBLISHER_SECRET", publisher)];
    let server = Server::start_with(&[], &variables);

    let script = block(GUIDE, "authenticated").replace("127.0.0.1:3000", &server.address.to_string());
    let answer = bash(&script, &variables);
    assert_eq!(without_run(&answer), "{\"id\":\"RUN-1\",\"events\":1}\n");

    let token = bash("esper token --sub abcdef123", &variables);
    let path = format!("/subscribe/abcdef123?token={}", token.trim());
    let head = server.request("HEAD", &path, &[], "");
    assert_eq!((head.status, head.field("Content-Type")), (200, Some("text/event-stream; charset=utf-8")));
    // One made for the one side is none for the other.
    assert_eq!(server.post(&path.replace("subscribe", "publish"), "data: x").status, 401);

    let token = bash(block(GUIDE, "admin-token"), &variables);
    let with_token = |path: &str| format!("{path}?token={}", token.trim());
    assert_eq!(server.get(&with_token("/admin/status.json")).status, 200);
    assert_eq!(server.post(&with_token("/publish/abcdef123"), "data: x").status, 403);
}

#[test]
fn the_five_commands_of_a_session_print_what_the_guide_shows() {
    let script = block(GUIDE, "sessions").replace("\\\n", " ");
    let [start, mint, subscribe, emit, list] = script.lines().collect::<Vec<_>>().try_into().expect("five");
    let start = start.replace("127.0.0.1:8000", "127.0.0.1:0").replace("127.0.0.1:8001", "127.0.0.1:0");
    let flags = start.strip_prefix("esper ").and_then(|line| line.strip_suffix(" &")).unwrap();
    let server = Server::spawn(esper(&flags.split(' ').collect::<Vec<_>>(), &[]));
    let (public, control) = (server.address.to_string(), server.control().to_string());
    let here = |command: &str| command.replace("127.0.0.1:8000", &public).replace("127.0.0.1:8001", &control);

    let token = bash(&format!("{}; printf %s \"$token\"", here(mint)), &[]);
    let subscribe = subscribe.strip_suffix(" &").unwrap().replace("$token", &token);
    let subscriber = Background::start(&here(&subscribe));
    let listed = || serde_json::from_str::<Value>(&bash(&here(list), &[])).unwrap();
    let listed = eventually("curl is subscribed", || Some(listed()).filter(|all| all["streams"] == 1));
    assert_eq!((&listed["channel"], &listed["users"][0]["userId"]), (&"chat".into(), &"alex".into()));

    let answer = without_run(&bash(&here(emit), &[]));
    let shown = answer.trim_end().replace("RUN", "14695981039346656037");
    assert!(GUIDE.contains(&format!("`{shown}`")), "{answer}");
    let printed = without_run(fence(GUIDE, "and the third prints")) + "\n";
    let got = eventually("curl prints the event", || {
        Some(subscriber.printed()).filter(|got| got.ends_with("\n\n"))
    });
    assert_eq!(without_run(&got), printed);
}

#[test]
fn the_lines_for_apache_and_nginx_pass_a_session_s_stream_on() {
    let sessions = Sessions::start(&[]);
    let site =
        format!("<VirtualHost *:80>\nServerName yoursite.com\n{}</VirtualHost>\n", block(GUIDE, "apache"));
    let config = format!(
        "user www-data;\npid /run/nginx.pid;\nerror_log /var/log/nginx/error.log;\nevents {{}}\nhttp {{\n\
         access_log /var/log/nginx/access.log;\nserver {{\nlisten 80;\n{}}}\n}}\n",
        block(GUIDE, "nginx")
    );
    for proxy in [apache(&site, sessions.public), nginx(&config, [sessions.public; 2])] {
        let mut stream = stream_at(proxy.address, "/api/sse/", &sessions.token("alex", "chat"), "");
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        sessions.emit("alex", "chat", "data: hi");
        assert_eq!(stream.event().data, "hi");
    }
}
