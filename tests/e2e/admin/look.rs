//! How the admin page looks, at the widths of phones, tablets and desktops.

use std::path::Path;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::support::admin_page::{fill_in, open_page, prepare, press, until};
use crate::support::browser::Browser;
use crate::support::tokens::BOTH;
use crate::support::{Server, Stream, TempDir};

/// Returns the lists of tiles, or of charts, with a row that has not as many or not as high ones as the first.
const ODD: &str = "return [...document.querySelectorAll('.tiles, .charts')].filter((list) => {
        const rows = {};
        for (const tile of list.children) {
            const { top, height } = tile.getBoundingClientRect();
            if (tile.checkVisibility()) (rows[Math.round(top)] ??= []).push(Math.round(height));
        }
        return new Set(Object.values(rows).map(String)).size > 1;
    }).map((list) => list.id)";

/// Returns the texts with a contrast to their background below 4.5, which WCAG 2 asks for (1.4.3).
const TOO_PALE: &str = "const luminance = (color) => color.match(/[0-9.]+/g).slice(0, 3)
        .map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4))
        .reduce((sum, part, n) => sum + part * [0.2126, 0.7152, 0.0722][n], 0);
    const behind = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return color == 'rgba(0, 0, 0, 0)' && element.parentElement ? behind(element.parentElement) : color;
    };
    const has_text = (element) => [...element.childNodes].some((node) => node.nodeType == 3 && node.data.trim());
    const contrast = (element) => {
        const [a, b] = [getComputedStyle(element).color, behind(element)].map(luminance).sort((a, b) => a - b);
        return (b + 0.05) / (a + 0.05);
    };
    return [...document.body.querySelectorAll('*')]
        .filter((element) => element.checkVisibility() && has_text(element) && contrast(element) < 4.5)
        .map((element) => `${element.textContent.trim()}: ${contrast(element)}`)";

/// Its screenshots are for a person to look at, in `target/tmp`.
#[test]
fn the_page_is_usable_in_light_in_dark_and_on_a_phone() {
    let dir = TempDir::new();
    let server =
        Server::start(&["--namespaces", "--cores", "2", "--data-dir", dir.0.join("data").to_str().unwrap()]);
    let agents = [
        "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
         Version/18.6 Mobile/15E148 Safari/604.1",
        "curl/8.14.1",
    ];
    let topics =
        ["/pets/dogs", "/pets", "?topic=time&topic=pets/cats", "/", "/a-long-name/without.any_spaces~in-it"];
    let _streams: Vec<_> = (0..40)
        .map(|n| {
            let agent = format!("User-Agent: {}", agents[n % agents.len()]);
            Stream::open_with(&server, &format!("/subscribe{}", topics[n % topics.len()]), &[&agent])
        })
        .collect();
    let browser = open_page(&server);
    press(&browser, "listen");
    until(&browser, "shown('listening').startsWith('subscribed')");
    fill_in(&browser, "name", "new-dog");
    press(&browser, "publish");
    // Some seconds of traffic for the charts.
    for n in 0..200 {
        server.post(["/publish/pets/cats", "/publish/time"][n % 2], &"data: x\n\n".repeat(1 + n % 13));
        thread::sleep(Duration::from_millis(40));
    }
    until(&browser, "rows().length == 41 && tried().length > 0");

    let background = "return getComputedStyle(document.documentElement).backgroundColor";
    let mut backgrounds = Vec::new();
    for (name, scheme, width) in [
        ("light", "light", 1280),
        ("dark", "dark", 1280),
        ("wide", "light", 1600),
        ("tablet", "light", 820),
        ("phone", "light", 390),
        ("small-phone", "dark", 360),
    ] {
        set_scheme(&browser, scheme);
        set_screen(&browser, width, 3400);
        save_screenshot(&browser, &format!("admin-{name}.png"));
        assert_eq!(
            browser.run("return document.scrollingElement.scrollWidth"),
            width,
            "{name}: nothing sticks out"
        );
        assert_eq!(browser.run(ODD), json!([]), "{name}: no tile or chart stands alone");
        // A table that is wider than its room says so; none else does.
        until(
            &browser,
            "[...document.querySelectorAll('main .scroller + .sideways')].every((hint) => {
                 const box = hint.previousElementSibling.firstElementChild;
                 return hint.checkVisibility() == box.scrollWidth > box.clientWidth + 1;
             })",
        );
        assert_eq!(browser.run(TOO_PALE), json!([]), "{name}");
        backgrounds.push(browser.run(background));
    }
    assert!(backgrounds[0] != backgrounds[1] && backgrounds[0] == backgrounds[4], "{backgrounds:?}");
    // On the phone a shadow shows on which side there is more.
    let shadows = "$('shards').closest('.scroller').className.split(' ').sort().join(' ')";
    until(&browser, &format!("{shadows} == 'right scroller'"));
    browser.run("$('shards').closest('.scroll').scrollLeft = 10_000");
    until(&browser, &format!("{shadows} == 'left scroller'"));

    // Each control has a name for screen readers, and nothing is loaded from elsewhere.
    let names = "[...document.querySelectorAll('button, input, textarea, svg[role], [tabindex]')].map((e) =>
        (e.labels?.[0] ?? document.getElementById(e.getAttribute('aria-labelledby')) ?? e).textContent.trim()
        || e.getAttribute('aria-label'))";
    let names = browser.run(&format!("return {names}"));
    assert!(
        names.as_array().unwrap().iter().all(|name| name.as_str().is_some_and(|name| !name.is_empty())),
        "{names}"
    );
    let elsewhere =
        "performance.getEntriesByType('resource').filter((e) => !e.name.startsWith(location.origin))";
    assert_eq!(browser.run(&format!("return {elsewhere}.map((e) => e.name)")), json!([]));

    drop(server);
    until(&browser, "state() == 'away'");
    for scheme in ["light", "dark"] {
        set_scheme(&browser, scheme);
        save_screenshot(&browser, &format!("admin-away-{scheme}.png"));
        assert_eq!(browser.run(TOO_PALE), json!([]), "dimmed, in {scheme}");
    }
}

#[test]
fn the_prompt_for_a_token_fits_a_phone() {
    let server = Server::start_with(&[], BOTH);
    let browser = Browser::open(&server.url("/admin/"));
    prepare(&browser);
    until(&browser, "is_shown('door')");
    for scheme in ["light", "dark"] {
        set_scheme(&browser, scheme);
        set_screen(&browser, 390, 844);
        save_screenshot(&browser, &format!("admin-prompt-{scheme}.png"));
        assert_eq!(browser.run("return document.scrollingElement.scrollWidth"), 390, "nothing sticks out");
        assert_eq!(browser.run(TOO_PALE), json!([]), "{scheme}");
    }
}

/// Has the page drawn for people who prefer this scheme, `light` or `dark`.
fn set_scheme(browser: &Browser, scheme: &str) {
    let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
    browser.devtools("Emulation.setEmulatedMedia", &json!({ "features": features }));
}

/// Has the page drawn on a screen of this size, a phone's if it is narrow, and waits until it is.
fn set_screen(browser: &Browser, width: u32, height: u32) {
    let screen = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
    browser.devtools("Emulation.setDeviceMetricsOverride", &screen);
    until(browser, &format!("innerWidth == {width}"));
}

fn save_screenshot(browser: &Browser, name: &str) {
    let image = browser.devtools("Page.captureScreenshot", &json!({ "format": "png" }));
    let image = BASE64_STANDARD.decode(image["data"].as_str().unwrap()).unwrap();
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name), image).unwrap();
}
