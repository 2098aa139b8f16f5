//! Results as pictures: SVG on white, so that they can be read in light and dark pages, each server with a colour and a
//! mark of its own.

use crate::compare::case::Axis;
use crate::compare::metric::{Metric, Spread};
use crate::compare::results::{Record, Results};
use plotters::coord::combinators::BindKeyPoints;
use plotters::element::{DynElement, IntoDynElement};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::{Path, PathBuf};

const SIZE: (u32, u32) = (860, 520);
/// Told apart by people who see colours differently too (Okabe and Ito), and by the marks.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(90, 90, 90),
    RGBColor(204, 121, 167),
    RGBColor(180, 140, 0),
];
const LEGEND_WIDTH: u32 = 110;
/// More labels on an axis run into each other.
const TICKS_MAX: usize = 12;
const GRID: RGBColor = RGBColor(225, 225, 225);

/// Points of one server.
struct Line {
    peer: String,
    /// Its place in the order of servers, for colour and mark.
    number: usize,
    points: Vec<(f64, f64)>,
}

/// What a picture shows.
struct Picture<'a> {
    file: &'a str,
    title: &'a str,
    x: &'a str,
    y: &'a str,
    /// How the values on the x axis are written.
    tick: fn(f64) -> String,
    /// Where the x axis has its marks: only there, as there are few.
    ticks: Vec<f64>,
}

/// Draws every picture for which there are results; tells their files.
pub(crate) fn draw(all: &[Results], into: &Path) -> Result<Vec<PathBuf>, String> {
    std::fs::create_dir_all(into).map_err(|error| format!("{}: {error}", into.display()))?;
    let mut drawn = Vec::new();
    let mut one = |picture: &Picture<'_>, lines: Vec<Line>| -> Result<(), String> {
        if lines.iter().any(|line| line.points.len() > 1) {
            let path = into.join(picture.file);
            picture.draw(&lines, &path).map_err(|error| format!("{}: {error}", path.display()))?;
            drawn.push(path);
        }
        Ok(())
    };
    for (case, file, title) in [
        ("paced", "latency-1000.svg", "Latency, 1,000 subscribers, 100 events/s"),
        ("many", "latency-10000.svg", "Latency, 10,000 subscribers, 10 events/s"),
    ] {
        let (x, y) = ("percentile", "from due to read, ms");
        let ticks = [0.5, 0.9, 0.99, 0.999, 0.9999].map(nines).to_vec();
        one(&Picture { file, title, x, y, tick: percentile, ticks }, latency(all, case))?;
    }
    for (axis, name, x, tick, fixed) in [
        (Axis::Subscribers, "subscribers", "subscribers", plain as fn(f64) -> String, "128-byte events"),
        (Axis::Size, "size", "bytes of data in an event", bytes, "1,000 subscribers"),
        (Axis::Topics, "topics", "topics", plain, "10,000 subscribers"),
        (Axis::Shards, "shards", "shards (threads, worker processes)", plain, "1,000 subscribers"),
    ] {
        for (pace, metric, what) in [
            ("flood", Metric::Deliveries, "Deliveries a second, published as fast as taken"),
            ("rate", Metric::ServerCpu, "CPU per delivery at a steady rate"),
            ("flood", Metric::DeliveriesPerCpu, "Deliveries in a second of the server's CPU"),
        ] {
            let title = format!("{what}, {fixed}");
            let lines = over(all, axis, pace, metric);
            let mut ticks: Vec<_> =
                lines.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x)).collect();
            ticks.sort_by(f64::total_cmp);
            ticks.dedup();
            let file = format!("{name}-{}.svg", slug(metric));
            one(&Picture { file: &file, title: &title, x, y: metric.title(), tick, ticks }, lines)?;
        }
    }
    if drawn.is_empty() {
        return Err(
            "there is nothing to draw in these files; they must come from compare or sweep --out".to_owned()
        );
    }
    Ok(drawn)
}

fn slug(metric: Metric) -> &'static str {
    match metric {
        Metric::Deliveries => "deliveries",
        Metric::DeliveriesPerCpu => "deliveries-per-cpu",
        _ => "cpu",
    }
}

fn peers(all: &[Results]) -> Vec<String> {
    let mut peers: Vec<String> = Vec::new();
    for peer in all.iter().flat_map(|results| &results.peers) {
        if !peers.contains(peer) {
            peers.push(peer.clone());
        }
    }
    peers
}

/// Medians of a figure over an axis.
fn over(all: &[Results], axis: Axis, pace: &str, metric: Metric) -> Vec<Line> {
    let line = |(number, peer): (usize, String)| {
        let at = |record: &Record| {
            record.at.filter(|(of, _)| *of == axis && record.peer == peer).map(|(_, at)| at)
        };
        let values = |results: &Results| -> Vec<(f64, f64)> {
            let taken = results.records.iter().filter_map(|record| {
                let report = record.report.as_ref().filter(|report| report.pace == pace)?;
                Some((at(record)?, metric.of(report)?))
            });
            taken.collect()
        };
        let values: Vec<_> = all.iter().flat_map(values).filter(|(_, value)| *value > 0.0).collect();
        let mut places: Vec<_> = values.iter().map(|(at, _)| *at).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let median = |place: f64| {
            let there = values.iter().filter(|(at, _)| *at == place).map(|(_, value)| *value);
            Spread::of(there).map(|spread| (place, spread.median))
        };
        Line { points: places.into_iter().filter_map(median).collect(), peer, number }
    };
    peers(all).into_iter().enumerate().map(line).collect()
}

/// Medians of the latency at each quantile, over the nines of it.
fn latency(all: &[Results], case: &str) -> Vec<Line> {
    let line = |(number, peer): (usize, String)| {
        let reports: Vec<_> = all.iter().flat_map(|results| results.reports(case, &peer)).collect();
        let curve = reports.first().map(|report| report.latency_us.curve.clone()).unwrap_or_default();
        let point = |(place, (quantile, _)): (usize, (f64, f64))| {
            let there = reports.iter().filter_map(|report| report.latency_us.curve.get(place));
            let spread = Spread::of(there.map(|(_, us)| us / 1e3))?;
            (quantile < 1.0).then_some((nines(quantile), spread.median))
        };
        let points = curve.into_iter().enumerate().filter_map(point).collect();
        Line { points, peer, number }
    };
    peers(all).into_iter().enumerate().map(line).collect()
}

/// 1 for 90 %, 2 for 99 % ... as a power of ten, for the axis is a logarithmic one.
fn nines(quantile: f64) -> f64 {
    1.0 / (1.0 - quantile)
}

fn percentile(value: f64) -> String {
    let percent = (1.0 - 1.0 / value) * 100.0;
    let text = format!("{percent:.3}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

fn plain(value: f64) -> String {
    crate::report_table::thousands(value)
}

fn bytes(value: f64) -> String {
    if value >= 1024.0 { format!("{} KiB", value / 1024.0) } else { format!("{value} B") }
}

/// A value on a logarithmic axis, as short as it can be said.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e3 => (v / 1e3, " k"),
        v => (v, ""),
    };
    let text = format!("{value:.3}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

type Fault = Box<dyn std::error::Error>;

impl Picture<'_> {
    fn draw(&self, lines: &[Line], path: &Path) -> Result<(), Fault> {
        let mut text = String::new();
        self.draw_into(lines, &mut text)?;
        std::fs::write(path, text)?;
        Ok(())
    }

    fn draw_into(&self, lines: &[Line], text: &mut String) -> Result<(), Fault> {
        let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (chart_area, legend) = area.split_horizontally(SIZE.0 - LEGEND_WIDTH);
        let points = || lines.iter().flat_map(|line| &line.points);
        let (x, _) = bounds(points().map(|(x, _)| *x).chain(self.ticks.iter().copied()), 1.15);
        let (y, y_ticks) = bounds(points().map(|(_, y)| *y), 1.3);
        let font = |size: u32| ("sans-serif", size).into_font().color(&BLACK);
        let mut chart = ChartBuilder::on(&chart_area)
            .caption(self.title, font(20))
            .margin(12)
            .x_label_area_size(52)
            .y_label_area_size(84)
            .build_cartesian_2d(
                x.log_scale().with_key_points(self.ticks.clone()),
                y.log_scale().with_key_points(y_ticks),
            )?;
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|value| (self.tick)(*value))
            .y_label_formatter(&|value| short(*value))
            .axis_desc_style(font(17))
            .label_style(font(16))
            .draw()?;
        for line in lines.iter().filter(|line| !line.points.is_empty()) {
            let colour = colour(line.number);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?;
            for point in &line.points {
                area.draw(&mark(line.number, chart.backend_coord(point)))?;
            }
        }
        let text_style = font(17).pos(Pos::new(HPos::Left, VPos::Center));
        for (place, line) in lines.iter().filter(|line| !line.points.is_empty()).enumerate() {
            let y = 60 + 26 * place as i32;
            let stroke = colour(line.number).stroke_width(2);
            legend.draw(&PathElement::new(vec![(4, y), (36, y)], stroke))?;
            legend.draw(&mark(line.number, (20, y)))?;
            legend.draw(&Text::new(line.peer.clone(), (44, y), text_style.clone()))?;
        }
        area.present()?;
        Ok(())
    }
}

fn colour(number: usize) -> RGBColor {
    COLOURS.get(number % COLOURS.len()).copied().unwrap_or(BLACK)
}

/// The mark of one server, at a place in pixels.
fn mark<'a, DB: DrawingBackend + 'a>(number: usize, at: (i32, i32)) -> DynElement<'a, DB, (i32, i32)> {
    let style = colour(number).filled();
    let here = EmptyElement::at(at);
    match number % 4 {
        0 => (here + Circle::new((0, 0), 5, style)).into_dyn(),
        1 => (here + TriangleMarker::new((0, 0), 7, style)).into_dyn(),
        2 => (here + Rectangle::new([(-5, -5), (5, 5)], style)).into_dyn(),
        _ => (here + Cross::new((0, 0), 5, colour(number).stroke_width(3))).into_dyn(),
    }
}

/// A range with some room around the values, and the places 1, 2, 5, 10 ... within it.
fn bounds(values: impl Iterator<Item = f64>, room: f64) -> (std::ops::Range<f64>, Vec<f64>) {
    let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
    for value in values {
        low = low.min(value);
        high = high.max(value);
    }
    if !low.is_finite() || low <= 0.0 {
        return (1.0..10.0, vec![1.0, 10.0]);
    }
    let (low, high) = (low / room, high * room);
    let tens = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    let all = tens.flat_map(|ten| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(ten)));
    let mut ticks: Vec<_> = all.filter(|tick| (low..=high).contains(tick)).collect();
    if ticks.len() > TICKS_MAX {
        ticks.retain(|tick| tick.log10().fract().abs() < 1e-9);
    }
    (low..high, ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_shows_every_server_by_name_and_leaves_out_those_without_points() {
        let line = |peer: &str, number, points: &[(f64, f64)]| Line {
            peer: peer.to_owned(),
            number,
            points: points.to_vec(),
        };
        let ticks = vec![10.0, 1_000.0];
        let (title, x, y) = ("A title", "subscribers", "per second");
        let picture = Picture { file: "a.svg", title, x, y, tick: plain, ticks };
        let mut text = String::new();
        let lines = [
            line("one", 0, &[(10.0, 5.0), (1_000.0, 7e6)]),
            line("two", 1, &[(10.0, 9.0)]),
            line("none", 2, &[]),
        ];
        picture.draw_into(&lines, &mut text).unwrap();
        for word in ["A title", "subscribers", "per second", "one", "two", "1,000", "</svg>"] {
            assert!(text.contains(word), "{word}");
        }
        assert!(!text.contains("none\n"));
    }

    #[test]
    fn a_range_has_room_and_round_places() {
        let (range, ticks) = bounds([2.0, 40.0].into_iter(), 1.3);
        assert!(range.start < 2.0 && range.end > 40.0);
        assert_eq!(ticks, [2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(bounds(std::iter::empty(), 1.3).1, [1.0, 10.0]);
        assert!(bounds([1.0, 1e9].into_iter(), 1.3).1.len() <= TICKS_MAX);
    }

    #[test]
    fn places_are_written_as_people_say_them() {
        assert_eq!(
            [0.5, 0.99, 0.9999].map(|quantile| percentile(nines(quantile))),
            ["50 %", "99 %", "99.99 %"]
        );
        assert_eq!([0.02, 5.0, 2_000.0, 2e7].map(short), ["0.02", "5", "2 k", "20 M"]);
        assert_eq!([32.0, 65_536.0].map(bytes), ["32 B", "64 KiB"]);
    }
}
