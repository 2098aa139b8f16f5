//! Comparison as pictures: SVG on white, so that they can be read in light and dark pages, each server with a colour and a
//! mark of its own.

use super::Comparison;
use super::case::{Axis, Case};
use crate::bench::metric::{Metric, Spread};
use crate::report::Report;
use crate::report_table::thousands;
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

/// A server by its name, and its points. Its place in the order of servers gives its colour and mark.
pub(crate) type Line = (String, Vec<(f64, f64)>);

struct Picture<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
    /// Writes a value on the x axis.
    tick: fn(f64) -> String,
    /// Where the x axis has its marks: only there, as there are few.
    ticks: Vec<f64>,
}

/// Draws every picture for which there are results; returns their files.
pub(crate) fn draw(all: &[Comparison], cases: &[Case], into: &Path) -> Result<Vec<PathBuf>, String> {
    std::fs::create_dir_all(into).map_err(|error| format!("{}: {error}", into.display()))?;
    let mut drawn = Vec::new();
    let mut one = |file: &str, picture: &Picture<'_>, lines: &[Line]| -> Result<(), String> {
        if lines.iter().any(|(_, points)| points.len() > 1) {
            let path = into.join(file);
            let mut text = String::new();
            let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            picture.draw(lines, &mut text).map_err(|error| wrong(&error))?;
            std::fs::write(&path, text).map_err(|error| wrong(&error))?;
            drawn.push(path);
        }
        Ok(())
    };
    for (case, file, title) in [
        ("paced", "latency-1000.svg", "Latency, 1,000 subscribers, 100 events/s"),
        ("many", "latency-10000.svg", "Latency, 10,000 subscribers, 10 events/s"),
    ] {
        let ticks = [0.5, 0.9, 0.99, 0.999, 0.9999].map(nines).to_vec();
        let (x, y, tick) = ("percentile", "from due to read, ms", percentile as fn(f64) -> String);
        let curve = |results: &Comparison, peer: &str| -> Vec<(f64, f64)> {
            let points = results.reports(case, peer).flat_map(|report| report.latency_us.curve.clone());
            points.filter(|(of, _)| *of < 1.0).map(|(of, us)| (nines(of), us / 1e3)).collect()
        };
        one(file, &Picture { title, x, y, tick, ticks }, &lines(all, curve))?;
    }
    for (axis, name, x, tick, fixed) in [
        (Axis::Subscribers, "subscribers", "subscribers", thousands as fn(f64) -> String, "128-byte events"),
        (Axis::Size, "size", "bytes of data in an event", bytes, "1,000 subscribers"),
        (Axis::Topics, "topics", "topics", thousands, "10,000 subscribers"),
        (Axis::Shards, "shards", "shards (threads, worker processes)", thousands, "1,000 subscribers"),
    ] {
        for (pace, metric, slug, what) in [
            ("flood", "deliveries", "deliveries", "Deliveries a second, published as fast as taken"),
            ("rate", "server-cpu", "cpu", "CPU per delivery at a steady rate"),
            (
                "flood",
                "deliveries-per-cpu",
                "deliveries-per-cpu",
                "Deliveries in a second of the server's CPU",
            ),
        ] {
            let Some(metric) = Metric::named(metric) else { continue };
            let places: Vec<_> = cases.iter().filter_map(|case| Some((case, case.at(axis)?))).collect();
            let figures = |results: &Comparison, peer: &str| {
                let mut points = Vec::new();
                for (case, at) in &places {
                    let of_pace = |report: &&Report| report.pace == pace;
                    let reports = results.reports(&case.name, peer).filter(of_pace);
                    points.extend(reports.filter_map(metric.of).filter(|y| *y > 0.0).map(|y| (*at, y)));
                }
                points
            };
            let lines = lines(all, figures);
            let mut ticks: Vec<_> =
                lines.iter().flat_map(|(_, points)| points.iter().map(|(x, _)| *x)).collect();
            ticks.sort_by(f64::total_cmp);
            ticks.dedup();
            let title = &format!("{what}, {fixed}");
            one(&format!("{name}-{slug}.svg"), &Picture { title, x, y: metric.title, tick, ticks }, &lines)?;
        }
    }
    if drawn.is_empty() {
        return Err(
            "there is nothing to draw in these files; they must come from compare or sweep --out".to_owned()
        );
    }
    Ok(drawn)
}

/// Draws values over minutes, each line from 0 on, into a file.
pub(crate) fn draw_time(title: &str, y: &str, lines: &[Line], into: &Path) -> Result<(), String> {
    let mut text = String::new();
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", into.display());
    time_picture(title, y, lines, &mut text).map_err(|error| wrong(&error))?;
    std::fs::write(into, text).map_err(|error| wrong(&error))
}

fn time_picture(
    title: &str,
    y: &str,
    lines: &[Line],
    text: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let points = || lines.iter().flat_map(|(_, points)| points);
    let most = |value: fn(&(f64, f64)) -> f64| points().map(value).fold(1.0, f64::max);
    let font = |size: u32| ("sans-serif", size).into_font().color(&BLACK);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, font(20))
        .margin(12)
        .x_label_area_size(52)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..most(|(x, _)| *x), 0.0..most(|(_, y)| *y) * 1.2)?;
    let mesh = &mut chart.configure_mesh();
    mesh.bold_line_style(GRID).light_line_style(TRANSPARENT).x_desc("minutes").y_desc(y);
    mesh.axis_desc_style(font(17)).label_style(font(16)).draw()?;
    for (number, (name, points)) in lines.iter().enumerate() {
        let stroke = colour(number).stroke_width(2);
        let series = chart.draw_series(LineSeries::new(points.iter().copied(), stroke))?;
        series.label(name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 24, y)], stroke));
    }
    chart.configure_series_labels().label_font(font(16)).background_style(WHITE).draw()?;
    area.present()?;
    Ok(())
}

/// Returns the line of each server: the medians of its points at each place.
fn lines(all: &[Comparison], points: impl Fn(&Comparison, &str) -> Vec<(f64, f64)>) -> Vec<Line> {
    let mut peers: Vec<&String> = Vec::new();
    for peer in all.iter().flat_map(|results| &results.about.peers) {
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    let line = |peer: &String| {
        let mut points: Vec<_> = all.iter().flat_map(|results| points(results, peer)).collect();
        points.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let places = points.chunk_by(|(one, _), (other, _)| one == other);
        let median = |place: &[(f64, f64)]| {
            let spread = Spread::of(place.iter().map(|(_, y)| *y))?;
            place.first().map(|(x, _)| (*x, spread.median))
        };
        (peer.clone(), places.filter_map(median).collect())
    };
    peers.into_iter().map(line).collect()
}

/// Returns 2 for 50 %, 10 for 90 %, 100 for 99 % ...: the axis is a logarithmic one.
fn nines(quantile: f64) -> f64 {
    1.0 / (1.0 - quantile)
}

fn percentile(value: f64) -> String {
    format!("{} %", three_digits((1.0 - 1.0 / value) * 100.0))
}

fn bytes(value: f64) -> String {
    if value >= 1024.0 { format!("{} KiB", value / 1024.0) } else { format!("{value} B") }
}

/// Writes a value on a logarithmic axis, as short as it can be said.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e3 => (v / 1e3, " k"),
        v => (v, ""),
    };
    format!("{}{unit}", three_digits(value))
}

fn three_digits(value: f64) -> String {
    format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Picture<'_> {
    fn draw(&self, lines: &[Line], text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (chart_area, legend) = area.split_horizontally(SIZE.0 - LEGEND_WIDTH);
        let points = || lines.iter().flat_map(|(_, points)| points);
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
        let drawn = || lines.iter().enumerate().filter(|(_, (_, points))| !points.is_empty());
        for (number, (_, points)) in drawn() {
            let stroke = colour(number).stroke_width(2);
            chart.draw_series(LineSeries::new(points.iter().copied(), stroke))?;
            for point in points {
                area.draw(&mark(number, chart.backend_coord(point)))?;
            }
        }
        let text_style = font(17).pos(Pos::new(HPos::Left, VPos::Center));
        for (place, (number, (peer, _))) in drawn().enumerate() {
            let y = 60 + 26 * place as i32;
            let stroke = colour(number).stroke_width(2);
            legend.draw(&PathElement::new(vec![(4, y), (36, y)], stroke))?;
            legend.draw(&mark(number, (20, y)))?;
            legend.draw(&Text::new(peer.clone(), (44, y), text_style.clone()))?;
        }
        area.present()?;
        Ok(())
    }
}

fn colour(number: usize) -> RGBColor {
    COLOURS.get(number % COLOURS.len()).copied().unwrap_or(BLACK)
}

/// Returns the mark of one server, at a place in pixels.
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

/// Returns a range with some room around the values, and the places 1, 2, 5, 10 ... within it.
fn bounds(values: impl Iterator<Item = f64>, room: f64) -> (std::ops::Range<f64>, Vec<f64>) {
    let (low, high) =
        values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
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
        let line = |peer: &str, points: &[(f64, f64)]| (peer.to_owned(), points.to_vec());
        let (title, x, y) = ("A title", "subscribers", "per second");
        let picture = Picture { title, x, y, tick: thousands, ticks: vec![10.0, 1_000.0] };
        let lines =
            [line("one", &[(10.0, 5.0), (1_000.0, 7e6)]), line("two", &[(10.0, 9.0)]), line("none", &[])];
        let mut text = String::new();
        picture.draw(&lines, &mut text).unwrap();
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
