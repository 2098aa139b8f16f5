//! A browser showing a page, whichever it is: what the tests do with it is the same in each.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use super::{marionette, webdriver};
use crate::support::{PATIENCE, TempDir};

/// One browser at a time: several starting at once would starve each other on a small machine.
static TURN: Mutex<()> = Mutex::new(());

/// A kind of browser, each with an engine of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Chromium,
    Firefox,
    /// WebKitGTK's MiniBrowser, which has the engine of Safari.
    WebKit,
}

/// A browser that takes commands.
pub(super) trait Driver {
    /// Does one command of WebDriver, by the end of its path there, and returns its value, or the error as the driver words
    /// it.
    fn command(&self, name: &str, body: &Value) -> Result<Value, String>;
}

/// A browser showing a page. It ends with this value, and so do its driver and every file of theirs.
pub(crate) struct Browser {
    pub(crate) kind: Kind,
    // Before its files, and before anybody else's turn.
    driver: Box<dyn Driver>,
    _home: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts Chromium and loads a page.
    pub(crate) fn open(url: &str) -> Browser {
        Browser::open_in(Kind::Chromium, url)
    }

    /// Starts a browser of this kind and loads a page.
    pub(crate) fn open_in(kind: Kind, url: &str) -> Browser {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let home = TempDir::new();
        let path = home.0.to_str().unwrap();
        let driver: Box<dyn Driver> = match kind {
            Kind::Chromium => Box::new(webdriver::chromium(path)),
            Kind::Firefox => Box::new(marionette::firefox(path)),
            Kind::WebKit => Box::new(webdriver::webkit(path)),
        };
        let browser = Browser { kind, driver, _home: home, _turn: turn };
        browser.visit(url);
        browser
    }

    /// Loads another page in place of the one there, or the same anew.
    pub(crate) fn visit(&self, url: &str) {
        self.driver.command("url", &json!({ "url": url })).expect("the page loads");
    }

    /// Runs the body of a function in the page and waits for what it returns, promises too.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.try_run(script).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until an expression is true in the page.
    pub(crate) fn until(&self, condition: &str) {
        if let Err(error) = self.try_run(&format!("return until(() => {condition})")) {
            let seen = self.try_run("return [seen, opened, source && source.readyState]");
            panic!("not in {PATIENCE:?}: {condition}: {error}; seen, opened, state: {seen:?}");
        }
    }

    /// One command of the DevTools protocol and what it returns. Chromium alone has it.
    pub(crate) fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        let value = self.driver.command("goog/cdp/execute", &body);
        value.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    fn try_run(&self, script: &str) -> Result<Value, String> {
        self.driver.command("execute/sync", &json!({ "script": script, "args": [] }))
    }
}

/// The first process of a group of its own. They all end with this value.
pub(super) struct Group(pub(super) Child);

impl Group {
    pub(super) fn spawn(command: &mut Command) -> std::io::Result<Group> {
        command.process_group(0).stdin(Stdio::null()).spawn().map(Group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Not waited for yet, so that its number is nobody else's.
        if let Some(group) = Pid::from_raw(self.0.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Where a program writes what it writes: nothing stays anywhere else.
pub(super) fn home_variables(home: &str) -> [(&'static str, &str); 5] {
    ["HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"].map(|name| (name, home))
}

/// What a variable names, or else the program on the PATH.
pub(super) fn program(variable: &str, default: &str) -> String {
    let named = std::env::var(variable).ok().filter(|path| !path.is_empty());
    named.unwrap_or_else(|| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&paths).map(|path| path.join(default)).find(|path| path.exists());
        let found = found.unwrap_or_else(|| panic!("install {default}, or name it in {variable}"));
        found.to_str().expect("UTF-8").to_owned()
    })
}
