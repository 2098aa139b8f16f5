//! Progress bars: on a terminal alone, and never in the way of a result.

use indicatif::{ProgressBar, ProgressStyle};

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
