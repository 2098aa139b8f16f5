//! A page's EventSource in a real Chromium, as eventsourced's users have it.

use serde_json::json;

use super::*;
use crate::config_file::{Installed, SEED};
use crate::support::admin_page::{open_page, shown, until};
use crate::support::browser::{Browser, Cutter, serve_page};

#[test]
fn a_page_of_eventsourceds_gets_every_message_once_though_its_connection_is_cut() {
    let seed = SEED
        .replace("0.0.0.0:2069", "127.0.0.1:0")
        .replace("amqp://guest:guest@10.0.0.11:5672/", url())
        .replace("amqp://guest:guest@10.0.0.55:5672/", url());
    let installed = Installed::new(&seed);
    let server = installed.start(&["--retry-min", "10ms", "--retry-max", "20ms"], &[]);
    wait_connected(&server, 3);
    let (publisher, queue) = (Publisher::new(), unique("page"));
    let mut random = fastrand::Rng::new();
    let mut is_first = true;
    let cutter = Cutter::start(server.address, move || {
        // Of some 500 bytes is the head, in one packet; none is cut within it, for Chromium gives up on half of one.
        let cut = random.usize(1500..4000);
        Some(if std::mem::take(&mut is_first) { 4000 } else { cut })
    });
    let browser = Browser::open(&serve_page(""));
    browser.run(&format!("subscribe({:?})", cutter.url(&format!("/?id={queue}"))));
    browser.until("opened == 1");
    for round in 0..30 {
        publisher.queue(&queue, &bodies(10 * round..10 * (round + 1)));
        pause(Duration::from_millis(100));
    }
    browser.until("seen.length && seen.at(-1)[1] == 'message 299'");
    let seen = browser.run("return seen.map(([name, data]) => [name, data])");
    let expected: Vec<_> = bodies(0..300).into_iter().map(|body| json!(["message", body])).collect();
    assert_eq!(seen, json!(expected));
    assert!(cutter.cuts() >= 2, "{} cuts", cutter.cuts());
    // What a page may read of a refusal: that there is one. EventSource shows no more.
    let other = format!("subscribe({:?})", server.url(&format!("/?id={queue}")));
    browser.run(&format!("window.first = source; {other}"));
    browser.until("source.readyState == EventSource.CLOSED");
    assert_eq!(browser.run("return first.readyState"), json!(1), "the first is undisturbed");
    publisher.delete(&queue);
}

#[test]
fn a_page_finds_its_queue_by_its_cookie() {
    let page = serve_page("sid=cookie-of-the-page; Path=/; HttpOnly");
    let config = format!(
        "server: {{address: '127.0.0.1:0'}}\nbroker: {{node: ['{}']}}\nqueue: {{pattern: 'user-${{cookie:sid}}', expire: 60}}\n\
         header:\n  cors:\n    Access-Control-Allow-Origin: '{page}'\n    Access-Control-Allow-Credentials: 'true'\n",
        url()
    );
    let server = start_by(&config, &[]);
    wait_connected(&server, 1);
    let browser = Browser::open(&page);
    browser.run(&format!("subscribe({:?}, {{ withCredentials: true }})", server.url("/")));
    browser.until("opened == 1");
    let publisher = Publisher::new();
    publisher.queue("user-cookie-of-the-page", &["for you"]);
    browser.until("seen.length == 1");
    assert_eq!(browser.run("return seen[0][1]"), json!("for you"));
    publisher.delete("user-cookie-of-the-page");
}

#[test]
fn the_admin_page_shows_queues_and_whether_their_broker_is_there() {
    let broker = rabbitmq::Broker::start();
    let server = start_at(&[&broker.url], &[]);
    let browser = open_page(&server);
    until(&browser, "shown('queues-health') == 'Connected to every broker' && is_shown('queues-section')");
    let mut stream = opened(&server, "admin-page", None);
    let publisher = Publisher::at(&broker.url);
    publisher.queue("admin-page", &bodies(0..3));
    take(&mut stream, 3);
    until(&browser, "shown('tile-queues-open') == '1' && shown('tile-queues-delivered') == '3'");
    assert_eq!(shown(&browser, "tile-queues-brokers"), "1 of 1");
    let queues = &server.stats()["queues"];
    assert_eq!(
        (&queues["brokers"], &queues["open"], &queues["delivered"]),
        (&json!(1), &json!(1), &json!(3))
    );
    assert_eq!(
        browser.run("return ['journal-section', 'cluster-section'].map(is_shown)"),
        json!([false, false])
    );

    broker.kill();
    until(
        &browser,
        "shown('queues-health').startsWith('No broker answers') && $('queues-health').dataset.is == 'bad'",
    );
    assert_eq!(shown(&browser, "tile-queues-brokers"), "0 of 1");
}
