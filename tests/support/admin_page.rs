//! The admin page in a browser, used as a person uses it.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::browser::Browser;
use super::machine::PATIENCE;
use super::server::Server;

/// Opens the page, and returns when it shows something.
pub(crate) fn open_page(server: &Server) -> Browser {
    let browser = Browser::open(&server.url("/admin/"));
    prepare(&browser);
    until(&browser, "state() == 'live'");
    browser
}

/// Does what [`prepare`] does after the page was loaded again.
pub(crate) fn prepare_again(browser: &Browser) {
    until(browser, "!window.is_prepared && document.readyState == 'complete'");
    prepare(browser);
}

/// Gives the page the functions that tests ask it by.
pub(crate) fn prepare(browser: &Browser) {
    browser.run(
        "window.is_prepared = true;
         window.state = () => $('state').textContent;
         window.shown = (id) => $(id)?.textContent;
         window.is_shown = (id) => $(id).checkVisibility();
         window.is_stale = () => $('main').classList.contains('stale');
         window.rows = (columns = [0]) => [...$('connections').tBodies[0].rows].map((row) =>
             columns.map((column) => row.cells[column].textContent));
         window.tried = () => [...$('tried').children].map((item) =>
             ['b', 'code', 'pre'].map((tag, n) => n < 1 ? item.querySelector(tag).textContent.trim()
                 : item.querySelector(tag).textContent));",
    );
}

/// Waits until an expression is true in the page.
pub(crate) fn until(browser: &Browser, condition: &str) {
    let start = Instant::now();
    while browser.run(&format!("return Boolean({condition})")) != true {
        if start.elapsed() > PATIENCE {
            let text = browser.run("return document.body.innerText");
            panic!("not in {PATIENCE:?}: {condition}; the page: {}", text.as_str().unwrap_or_default());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the text of an element.
pub(crate) fn shown(browser: &Browser, id: &str) -> String {
    browser.run(&format!("return shown({id:?})")).as_str().unwrap().to_owned()
}

/// Fills in a field as somebody who types.
pub(crate) fn fill_in(browser: &Browser, id: &str, text: &str) {
    let text = json!(text);
    browser.run(&format!("$({id:?}).value = {text}; $({id:?}).dispatchEvent(new Event('input'))"));
}

/// Presses a form's button, or a button.
pub(crate) fn press(browser: &Browser, id: &str) {
    browser.run(&format!("($({id:?}).querySelector('button') ?? $({id:?})).click()"));
}
