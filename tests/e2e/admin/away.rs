//! The admin page while its server is away, and when one comes that has other parts.

use serde_json::json;

use crate::support::admin_page::{open_page, press, shown, until};
use crate::support::{Server, TempDir};

/// The parts of each chart: a band where nothing came, if there is one, and the number of pieces of its line.
const CHARTS: &str = "[...document.querySelectorAll('figure')].map((figure) =>
    [figure.querySelector('.gap').getAttribute('d') != '',
     figure.querySelector('.line').getAttribute('d').match(/M/g).length])";

#[test]
fn while_the_server_is_away_numbers_are_dimmed_charts_have_a_break_and_it_says_since_when() {
    let dir = TempDir::new();
    let flags = ["--data-dir", dir.0.to_str().unwrap()];
    let server = Server::start(&flags);
    let port = server.address.port().to_string();
    let browser = open_page(&server);
    // Rates are counted from the second update on.
    until(&browser, "samples.length >= 3");
    let colors = "['#tile-published', '#chart-subscribers b', '#shards td', '#journal-health'].map((each) =>
        getComputedStyle(document.querySelector(each)).color)";
    let color_of_line = "getComputedStyle(document.querySelector('.line')).stroke";
    let colors = format!("return [...{colors}, {color_of_line}]");
    let live = browser.run(&colors);

    drop(server);
    until(&browser, "state() == 'away' && is_stale()");
    let since = browser.run("return [since(heard), $('state').dataset.is]");
    assert_eq!(since[1], "bad");
    let why = shown(&browser, "why");
    assert!(why.starts_with(&format!("No answer since {} (", since[0].as_str().unwrap())), "{why}");
    let away = browser.run(&colors);
    for (live, away) in live.as_array().unwrap().iter().zip(away.as_array().unwrap()) {
        assert_ne!(live, away, "dimmed");
    }
    until(&browser, &format!("{CHARTS}.every(([has_gap]) => has_gap)"));

    let _server = Server::start(&[&flags[..], &["--port", &port]].concat());
    until(&browser, "state() == 'live' && !is_stale() && !is_shown('why')");
    // A rate needs two updates of the new server.
    until(&browser, &format!("{CHARTS}.every(([has_gap, pieces]) => has_gap && pieces >= 2)"));
    assert_eq!(browser.run(&colors), live);
    // One gap is one break, and without any there is none.
    let draw = |times: &str| {
        let sample = "{ at, subscribers: 1, published: 1, delivered: 1 }";
        let draw =
            format!("samples.length = 0; for (const at of {times}) samples.push({sample}); drawCharts();");
        browser.run(&format!("{draw} return {CHARTS}"))
    };
    assert_eq!(draw("[0, 1, 2, 9, 10]"), json!([[true, 2], [true, 2], [true, 2]]));
    assert_eq!(draw("[0, 1, 2, 3, 4]"), json!([[false, 1], [false, 1], [false, 1]]));
}

#[test]
fn the_page_survives_a_restart_of_the_server() {
    let server = Server::start(&[]);
    let port = server.address.port().to_string();
    let browser = open_page(&server);
    press(&browser, "listen");
    until(&browser, "shown('listening') == 'subscribed to abcdef123'");
    for n in 1..=2 {
        press(&browser, "publish");
        until(&browser, &format!("tried().length == {n} && shown('tile-published') == '{n}'"));
    }

    assert!(server.stop().success());
    until(&browser, "state() == 'away' && is_shown('why') && shown('listening').startsWith('reconnecting')");
    let server = Server::start(&["--port", &port]);
    until(&browser, "state() == 'live' && !is_shown('why') && shown('tile-published') == '0'");
    // The stream that is tried comes back after its last event, of which the new server knows nothing.
    until(&browser, "tried().length == 3");
    press(&browser, "publish");
    until(&browser, "tried().length == 4 && shown('tile-published') == '1'");
    let types = browser.run("return tried().map(([type]) => type)");
    assert_eq!(types, json!(["message", "message", "gap", "message"]));
    until(&browser, "rows([0]).join() == 'abcdef123'");
    drop(server);
}

#[test]
fn the_page_shows_the_journal_while_there_is_one() {
    let dir = TempDir::new();
    let data = dir.0.join("data");
    let server = Server::start(&["--data-dir", data.to_str().unwrap()]);
    let port = server.address.port().to_string();
    let browser = open_page(&server);
    until(&browser, "shown('tile-journal-size') == '64.0 MiB' && shown('tile-journal-segments') == '1'");
    assert_eq!(shown(&browser, "journal-health"), "Writing");
    assert_eq!(
        browser.run("return ['cluster-section', 'queues-section'].map(is_shown)"),
        json!([false, false])
    );
    assert_eq!(shown(&browser, "tile-journal-sync-p99"), "\u{2013}", "nothing was synced yet");
    press(&browser, "publish");
    until(&browser, "/^[0-9.]+ (µs|ms|s)$/.test(shown('tile-journal-sync-p99'))");

    assert!(server.stop().success());
    let _server = Server::start(&["--port", &port]);
    until(&browser, "state() == 'live' && shown('tile-published') == '0'");
    assert_eq!(browser.run("return is_shown('journal-section')"), false);
}
