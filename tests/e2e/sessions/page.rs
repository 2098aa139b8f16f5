//! Pages in a real browser at the control port: strangers' pages that must not get through, and the admin page.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use crate::support::admin_page::{fill_in, prepare, press, until};
use crate::support::browser::{Browser, serve_page};
use crate::support::sessions::{SECRET, Sessions, encode};
use crate::support::{TempDir, eventually};

/// Everything a page may send to another origin without being let.
const ATTACKS: &str = r#"
    const form = "userId=alex&channel=chat&payload=data:taken&data=taken&exp=60";
    const json = JSON.stringify(Object.fromEntries(new URLSearchParams(form)));
    const paths = ["token/", "emit/", "disconnect/", "publish/abcdef123", "token", "emit", "disconnect"];
    const urlencoded = "application/x-www-form-urlencoded";
    for (const path of paths) {
      const url = base + path;
      fetch(url, { method: "POST", mode: "no-cors", headers: { "Content-Type": urlencoded }, body: form });
      fetch(url, { method: "POST", mode: "no-cors", body: json });
      fetch(`${url}?${form}`, { method: "POST", mode: "no-cors", keepalive: true });
      navigator.sendBeacon(url, new URLSearchParams(form));
      for (const enctype of [urlencoded, "text/plain", "multipart/form-data"]) {
        for (const sandbox of [null, "allow-forms allow-scripts"]) {
          const frame = document.createElement("iframe");
          if (sandbox) frame.sandbox = sandbox;
          const fields = [...new URLSearchParams(form)].map(([name, value]) =>
            `<input name="${name}" value="${value}">`).join("");
          frame.srcdoc = `<form method=post enctype=${enctype} action="${url}">${fields}</form>
            <script>document.forms[0].submit()</` + `script>`;
          document.body.append(frame);
        }
      }
    }
"#;
/// For each of the paths: four by scripts, and six forms.
const ATTACK_COUNT: usize = 7 * (4 + 6);

/// Scripts may read these, if the server lets them.
const READING: &str = r#"
    const told = [];
    for (const [path, options] of [
      ["token/", { method: "POST", body: new URLSearchParams("userId=alex&channel=chat") }],
      ["token/", { method: "POST", body: "{}", headers: { "Content-Type": "application/json" } }],
      ["token/", { method: "POST", headers: { Authorization: "Bearer x" } }],
      ["sessions/?channel=chat", {}],
      ["sessions/?channel=chat", { credentials: "include" }],
      ["stats", {}],
      ["admin/status.json", {}],
    ]) {
      told.push(await fetch(base + path, options).then((answer) => answer.text(), () => "nothing"));
    }
    for (const tag of ["script", "img"]) {
      const element = document.createElement(tag);
      element.src = base + "sessions/?channel=chat";
      told.push(await new Promise((resolve) => {
        element.onload = () => resolve(tag === "script" ? "a script that says nothing" : "an image");
        element.onerror = () => resolve("nothing");
        document.body.append(element);
      }));
    }
    return told;
"#;

/// A page of the same site (another port), and one of another site.
#[test]
fn a_page_of_another_origin_mints_emits_and_reads_nothing() {
    let sessions = Sessions::start(&[]);
    let mut stream = sessions.stream("alex", "chat");
    for host in ["127.0.0.1", "evil.example"] {
        let page = serve_page("").replace("127.0.0.1", host);
        let recorder = Recorder::start(sessions.control);
        let base = format!("const base = 'http://{}/';", recorder.address);
        let browser = Browser::open(&page);
        browser.run(&format!("{base}{ATTACKS}"));
        let statuses = eventually("each attempt was answered", || {
            let statuses = recorder.statuses();
            (statuses.len() >= ATTACK_COUNT).then_some(statuses)
        });
        assert!(statuses.iter().all(|status| status == "403"), "{statuses:?}");

        // No CORS headers, so a page learns nothing even of what is answered.
        let told = browser.run(&format!("{base}{READING}"));
        let told: Vec<_> = told.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        let scripts = [&["nothing"; 7][..], &["a script that says nothing", "nothing"]].concat();
        assert!(told == scripts || told == ["nothing"; 9], "{told:?}");
        assert!(!recorder.answers().contains("Access-Control-"), "{}", recorder.answers());
        assert!(!recorder.answers().contains("eyJ"), "a token was minted");
    }
    // Neither ended nor told anything by anybody else.
    sessions.emit("alex", "chat", "data: the operator's");
    assert_eq!(stream.event().data, "the operator's");
    assert_eq!(sessions.stats()["published"], 1);
}

/// A page whose name is pointed at the control port once it is loaded is of one origin with it, as far as the browser knows.
#[test]
fn a_page_under_a_name_that_was_pointed_at_the_control_port_gets_nothing() {
    let sessions = Sessions::start(&["--control-host", "operator.example"]);
    for (name, is_known) in [("rebound.example", false), ("operator.example", true)] {
        let browser = Browser::open(&format!("http://{name}:{}/healthz", sessions.control.port()));
        let told = browser.run(
            "const fields = new URLSearchParams('userId=alex&channel=chat&payload=data:x');
             const told = [];
             for (const [method, path] of [['GET', '/healthz'], ['POST', '/token/'], ['POST', '/emit/'],
               ['GET', '/sessions/?channel=chat'], ['POST', '/disconnect/'], ['GET', '/admin/status.json'],
               ['GET', '/stats'], ['GET', '/metrics'], ['GET', '/nothing']]) {
               const answer = await fetch(path, { method, body: method === 'POST' ? fields : undefined });
               told.push(answer.status);
             }
             return told;",
        );
        let expected = if is_known { [200, 200, 200, 200, 200, 200, 200, 200, 404] } else { [403; 9] };
        assert_eq!(told, json!(expected), "{name}");
    }
}

#[test]
fn the_admin_page_works_on_the_control_port_and_is_not_on_the_public_one() {
    let sessions = Sessions::start(&[]);
    assert_eq!(sessions.server.get("/admin/").status, 404);
    let _stream = sessions.stream("alex", "chat");
    let browser = Browser::open(&format!("http://{}/admin/", sessions.control));
    prepare(&browser);
    until(&browser, "state() == 'live' && is_shown('main') && !is_shown('door')");
    until(&browser, "rows().length == 1");
    subscribe_and_publish(&browser, &sessions);
}

#[test]
fn the_admin_page_finds_a_session_by_its_channel_and_user_in_any_case() {
    let sessions = Sessions::start(&[]);
    let _streams = [sessions.stream("Alex", "Chat Room"), sessions.stream("b/*", "Chat Room")];
    let browser = Browser::open(&format!("http://{}/admin/", sessions.control));
    prepare(&browser);
    until(&browser, "state() == 'live' && rows().length == 2");
    for (text, found) in [
        ("Alex", 1),
        ("alex", 1),
        ("room/al", 1),
        ("Chat Room/b/*", 1),
        ("room/*", 0),
        ("chat", 2),
        ("session", 0),
    ] {
        fill_in(&browser, "filter", text);
        assert_eq!(browser.run("return rows().length"), found, "{text}");
        // What the page asks when its list is cut.
        let path = format!("/admin/status.json?{}", encode(&[("topic", text)]));
        let answer = sessions.control("GET", &path, &[], "");
        assert!(answer.body.contains(&format!("\"connections_total\":{found},")), "{text}: {answer:?}");
    }
}

#[test]
fn the_admin_page_asks_for_the_control_token_and_needs_no_other() {
    const TOKEN: &str = "control-token-of-the-tests-91ab";
    let dir = TempDir::new();
    let path = dir.0.join("control-token");
    fs::write(&path, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let secrets = [
        ("ESPER_SESSION_SECRET", SECRET),
        ("ESPER_SUBSCRIBER_SECRET", "subscribers-secret-5d20-of-the-tests"),
        ("ESPER_PUBLISHER_SECRET", "publishers-secret-b8e7-of-the-tests"),
    ];
    let sessions = Sessions::start_with(&["--control-token-file", path.to_str().unwrap()], &secrets);
    let browser = Browser::open(&format!("http://{}/admin/", sessions.control));
    prepare(&browser);
    until(&browser, "is_shown('door') && state() == 'token needed'");
    let prompt = browser.run("return $('door').innerText");
    let prompt = prompt.as_str().unwrap();
    assert!(prompt.contains("--control-token-file") && !prompt.contains("esper token"), "{prompt}");
    fill_in(&browser, "token", "another-token-of-the-tests-91ab");
    press(&browser, "door");
    until(&browser, "is_shown('door') && shown('refusal') == \"This is not the control port's token.\"");
    assert_eq!(browser.run("return is_shown('main')"), false);
    fill_in(&browser, "token", TOKEN);
    press(&browser, "door");
    until(&browser, "state() == 'live' && is_shown('main') && !is_shown('door')");
    subscribe_and_publish(&browser, &sessions);
}

/// The box to try it, as somebody uses it who fills in nothing that is not asked for.
fn subscribe_and_publish(browser: &Browser, sessions: &Sessions) {
    press(browser, "listen");
    until(browser, "shown('listening') == 'subscribed to abcdef123'");
    press(browser, "publish");
    until(browser, "tried().length == 1 && shown('tile-published') == '1'");
    let told = browser.run("return [tried()[0][2], shown('published').split(' the id ')[0]]");
    assert_eq!(told, json!(["hello", "published with"]));
    assert!(!sessions.server.log().contains("ERROR"), "{}", sessions.server.log());
}

/// A TCP proxy that keeps what is answered.
struct Recorder {
    address: SocketAddr,
    answers: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    fn start(upstream: SocketAddr) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answers = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&answers);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(upstream).unwrap();
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = std::io::copy(&mut &from_client, &mut &to_server);
                    let _ = to_server.shutdown(Shutdown::Both);
                });
                let kept = Arc::clone(&kept);
                thread::spawn(move || {
                    let (mut server, mut client, mut buffer) = (server, client, [0; 4096]);
                    while let Ok(bytes @ 1..) = server.read(&mut buffer) {
                        kept.lock().unwrap().extend_from_slice(&buffer[..bytes]);
                        let _ = client.write_all(&buffer[..bytes]);
                    }
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Recorder { address, answers }
    }

    fn answers(&self) -> String {
        String::from_utf8_lossy(&self.answers.lock().unwrap()).into_owned()
    }

    /// Of every answer so far. Those of one connection follow one another, and a refusal's line ends it.
    fn statuses(&self) -> Vec<String> {
        let answers = self.answers();
        answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect()
    }
}
