//! Progress bars: on a terminal alone, and never in the way of a result.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// A bar of known length, or a count that grows; drawn on standard error when that is a terminal.
pub(crate) fn bar(what: &'static str, length: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::new(length.unwrap_or(0));
    let template = match length {
        Some(_) => "{msg} {wide_bar} {human_pos}/{human_len}",
        None => "{msg} {prefix} subscribers: {human_pos} deliveries, {per_sec}, {elapsed}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(what)
}

/// The bar of publishing: over its time in milliseconds where that is known, otherwise a count of deliveries that grows.
pub(crate) fn publishing_bar(time: Option<Duration>) -> ProgressBar {
    let Some(time) = time else { return bar("publishing to", None) };
    let bar = ProgressBar::new(time.as_millis() as u64);
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {prefix} subscribers {wide_bar} {percent} %, {eta} left")
    {
        bar.set_style(style);
    }
    bar.with_message("publishing to")
}
