//! Line and bar charts: marks in an SVG that stretches to the width there is, text in HTML beside it so
//! that it keeps its size on a phone.

use std::borrow::Cow;
use std::fmt::Write;

use super::write::Html;
use crate::format;

/// Coordinates of the stretched SVG: as fine as a wide screen.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 400.0;

/// How the values of an axis are written.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    /// A number without one.
    Plain,
    /// A fraction, as percent.
    Percent,
    Seconds,
    Bytes,
    PerSecond,
    /// The decimal logarithm of a count.
    LogCount,
    /// The decimal logarithm of a number of bytes.
    LogBytes,
}

impl Unit {
    /// At a tick, where all ticks are multiples of `step`: as many decimals as that needs.
    fn tick(self, value: f64, step: f64) -> String {
        let decimals = |step: f64| {
            let needed = usize::try_from(-(step * 1.000_001).log10().floor() as i64).unwrap_or(0);
            if value == 0.0 { 0 } else { needed }
        };
        match self {
            Self::Plain => format!("{value:.*}", decimals(step)),
            Self::Percent => format!("{:.*} %", decimals(100.0 * step), 100.0 * value),
            Self::Seconds => format!("{value:.*} s", decimals(step)),
            Self::Bytes => trim(&format::bytes(value)),
            Self::PerSecond => trim(&format!("{}/s", format::short(value))),
            Self::LogCount => trim(&format::short(10_f64.powf(value))),
            Self::LogBytes => trim(&format::bytes(10_f64.powf(value))),
        }
    }

    /// Of a point.
    fn value(self, value: f64) -> String {
        match self {
            Self::Plain => format::significant(value, 4),
            Self::Percent => format::percent(value),
            Self::Seconds => format::seconds(value),
            Self::Bytes => format::bytes(value),
            Self::PerSecond => format!("{}/s", format::short(value)),
            Self::LogCount => format::short(10_f64.powf(value)),
            Self::LogBytes => format::bytes(10_f64.powf(value)),
        }
    }
}

/// Without zeros behind the decimal point: ticks are round numbers.
fn trim(text: &str) -> String {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    format!("{digits}{unit}")
}

/// One line or one level of stacked bars.
pub(crate) struct Series {
    pub(crate) name: Cow<'static, str>,
    /// Colour class of the style sheet: `c-fed`, `c-train`, …
    pub(crate) colour: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) dashed: bool,
}

/// An area between two curves.
pub(crate) struct Band {
    pub(crate) name: Cow<'static, str>,
    pub(crate) colour: &'static str,
    /// `(x, low, high)`.
    pub(crate) points: Vec<(f64, f64, f64)>,
}

/// A chart with a numeric x axis.
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    /// What the numbers were computed on.
    pub(crate) note: String,
    pub(crate) x_name: Cow<'static, str>,
    pub(crate) x_unit: Unit,
    pub(crate) y_unit: Unit,
    pub(crate) bands: Vec<Band>,
    pub(crate) lines: Vec<Series>,
    /// Stacked, first at the bottom, each at its x.
    pub(crate) bars: Vec<Series>,
    /// The y axis begins at zero.
    pub(crate) from_zero: bool,
    /// No tick lies above this (1 for a fraction).
    pub(crate) ceiling: Option<f64>,
}

impl Chart {
    pub(crate) fn new(title: &'static str, note: String, y_unit: Unit) -> Self {
        Self {
            title,
            note,
            x_name: "round".into(),
            x_unit: Unit::Plain,
            y_unit,
            bands: Vec::new(),
            lines: Vec::new(),
            bars: Vec::new(),
            from_zero: false,
            ceiling: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.lines.iter().chain(&self.bars).all(|s| s.points.is_empty())
    }

    /// Writes the figure; nothing when there is nothing to show.
    pub(crate) fn write(&self, h: &mut Html) {
        if self.is_empty() {
            return;
        }
        let Axes { x, y } = self.axes();
        h.raw("<figure class=\"chart\"><figcaption>")
            .element("h3", "", self.title)
            .element("p", "note", &self.note);
        h.raw("<p class=\"legend\">");
        for (name, colour, shape) in self.legend() {
            h.open("span", &[("class", &format_args!("key {shape} {colour}"))])
                .raw("<i></i>")
                .text(name)
                .close("span");
        }
        h.raw("</p></figcaption><div class=\"plot\">");

        let widest = y.ticks.iter().map(|t| self.y_unit.tick(*t, y.step).chars().count()).max().unwrap_or(1);
        h.open("div", &[("class", &"ys"), ("style", &format_args!("width:{:.1}ch", widest as f64 + 1.0))]);
        for t in &y.ticks {
            let top = 100.0 * (1.0 - y.place(*t));
            h.open("span", &[("style", &format_args!("top:{top:.2}%"))])
                .text(self.y_unit.tick(*t, y.step))
                .close("span");
        }
        h.raw("</div>");
        h.open(
            "svg",
            &[
                ("viewBox", &format_args!("0 0 {WIDTH} {HEIGHT}")),
                ("preserveAspectRatio", &"none"),
                ("role", &"img"),
                ("aria-label", &self.title),
            ],
        );
        for t in &y.ticks {
            let at = HEIGHT * (1.0 - y.place(*t));
            let class = if *t == 0.0 { "zero" } else { "grid" };
            h.open("path", &[("class", &class), ("d", &format_args!("M0 {at:.1}H{WIDTH}"))]).close("path");
        }
        self.marks(h, &x, &y);
        h.raw("</svg><div class=\"xs\">");
        for t in &x.ticks {
            let place = x.place(*t);
            let class = if place > 0.96 { "last" } else { "" };
            h.open("span", &[("class", &class), ("style", &format_args!("left:{:.2}%", 100.0 * place))])
                .text(self.x_unit.tick(*t, x.step))
                .close("span");
        }
        h.raw("</div>").element("div", "xname", &self.x_name).raw("</div></figure>");
    }

    /// Name, colour and shape of what is drawn; a band without a name belongs to its line.
    fn legend(&self) -> Vec<(&str, &'static str, &'static str)> {
        let lines = self.lines.iter().map(|s| (&*s.name, s.colour, if s.dashed { "dashed" } else { "line" }));
        let bars = self.bars.iter().map(|s| (&*s.name, s.colour, "bar"));
        let bands = self.bands.iter().map(|b| (&*b.name, b.colour, "band"));
        lines.chain(bars).chain(bands).filter(|(name, ..)| !name.is_empty()).collect()
    }

    fn marks(&self, h: &mut Html, x: &Axis, y: &Axis) {
        let px = |v: f64| WIDTH * x.place(v);
        let py = |v: f64| HEIGHT * (1.0 - y.place(v));
        for band in &self.bands {
            let upper = band.points.iter().map(|p| (px(p.0), py(p.2)));
            let lower = band.points.iter().rev().map(|p| (px(p.0), py(p.1)));
            h.open(
                "path",
                &[("class", &format_args!("area {}", band.colour)), ("d", &path(upper.chain(lower)))],
            )
            .close("path");
        }
        let step = smallest_step(self.bars.iter().flat_map(|s| s.points.iter().map(|p| p.0)));
        let half = step.map_or(WIDTH / 20.0, |s| 0.38 * (px(x.low + s) - px(x.low)));
        let mut base: Vec<(f64, f64)> = Vec::new();
        for series in &self.bars {
            let mut d = String::new();
            for (at, value) in &series.points {
                let from = base.iter().find(|b| b.0 == *at).map_or(0.0, |b| b.1);
                base.retain(|b| b.0 != *at);
                base.push((*at, from + value));
                let (left, right, top, bottom) = (px(*at) - half, px(*at) + half, py(from + value), py(from));
                // writing to a String cannot fail
                let _ = write!(d, "M{left:.1} {bottom:.1}V{top:.1}H{right:.1}V{bottom:.1}Z");
            }
            h.open("path", &[("class", &format_args!("fill {}", series.colour)), ("d", &d)]).close("path");
        }
        for series in &self.lines {
            let d = path(series.points.iter().map(|p| (px(p.0), py(p.1))));
            let dashed = if series.dashed { " dashed" } else { "" };
            h.open("path", &[("class", &format_args!("stroke {}{dashed}", series.colour)), ("d", &d)])
                .close("path");
            if series.points.len() <= 40 && !series.dashed {
                // a line of no length with a round cap is a dot that does not stretch
                let dots: String = series.points.iter().fold(String::new(), |mut d, p| {
                    let _ = write!(d, "M{:.1} {:.1}h0", px(p.0), py(p.1));
                    d
                });
                h.open("path", &[("class", &format_args!("dots {}", series.colour)), ("d", &dots)])
                    .close("path");
            }
        }
        self.hover(h, x);
    }

    /// An invisible strip around each x whose tooltip lists the values there.
    fn hover(&self, h: &mut Html, x: &Axis) {
        let mut xs: Vec<f64> =
            self.lines.iter().chain(&self.bars).flat_map(|s| s.points.iter().map(|p| p.0)).collect();
        xs.sort_unstable_by(f64::total_cmp);
        xs.dedup();
        // more would only make the page heavy: no pointer hits them
        if xs.len() > 300 {
            return;
        }
        for (i, at) in xs.iter().enumerate() {
            let left = if i == 0 { x.low } else { f64::midpoint(xs[i - 1], *at) };
            let right = xs.get(i + 1).map_or(x.high, |next| f64::midpoint(*at, *next));
            let mut text = format!("{} {}", self.x_name, self.x_unit.value(*at));
            for s in self.lines.iter().chain(&self.bars) {
                if let Some(p) = s.points.iter().find(|p| p.0 == *at) {
                    let _ = write!(text, "\n{}: {}", s.name, self.y_unit.value(p.1));
                }
            }
            for b in self.bands.iter().filter(|b| !b.name.is_empty()) {
                if let Some(p) = b.points.iter().find(|p| p.0 == *at) {
                    let _ = write!(
                        text,
                        "\n{}: {} to {}",
                        b.name,
                        self.y_unit.value(p.1),
                        self.y_unit.value(p.2)
                    );
                }
            }
            let (l, r, m) = (WIDTH * x.place(left), WIDTH * x.place(right), WIDTH * x.place(*at));
            h.raw("<g class=\"hit\">");
            h.open("path", &[("class", &"cursor"), ("d", &format_args!("M{m:.1} 0V{HEIGHT}"))]).close("path");
            h.open(
                "rect",
                &[
                    ("x", &format_args!("{l:.1}")),
                    ("y", &"0"),
                    ("width", &format_args!("{:.1}", (r - l).max(0.0))),
                    ("height", &HEIGHT),
                ],
            );
            h.element("title", "", text).close("rect").raw("</g>");
        }
    }

    fn axes(&self) -> Axes {
        let all = || self.lines.iter().chain(&self.bars).flat_map(|s| s.points.iter().copied());
        let bars = !self.bars.is_empty();
        let pad = if bars { smallest_step(all().map(|p| p.0)).unwrap_or(1.0) / 2.0 } else { 0.0 };
        let (x_low, x_high) = extent(all().map(|p| p.0));
        let mut ys: Vec<f64> = self.lines.iter().flat_map(|s| s.points.iter().map(|p| p.1)).collect();
        ys.extend(self.bands.iter().flat_map(|b| b.points.iter().flat_map(|p| [p.1, p.2])));
        if bars {
            let xs = all().map(|p| p.0);
            ys.extend(xs.map(|at| {
                self.bars.iter().flat_map(|s| &s.points).filter(|p| p.0 == at).map(|p| p.1).sum::<f64>()
            }));
        }
        if self.from_zero || bars {
            ys.push(0.0);
        }
        let (low, high) = extent(ys.into_iter());
        let mut y = Axis::rounded(low, high, 4);
        if let Some(ceiling) = self.ceiling.filter(|c| high <= *c) {
            y.high = y.high.min(ceiling);
            y.ticks.retain(|t| *t <= ceiling + 1e-9);
        }
        let integers = self.x_name == "round";
        Axes { x: Axis::exact(x_low - pad, x_high + pad, 6, integers), y }
    }
}

struct Axes {
    x: Axis,
    y: Axis,
}

struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    step: f64,
}

impl Axis {
    /// Ends at the data; ticks within.
    fn exact(low: f64, high: f64, most: usize, integers: bool) -> Self {
        let mut step = nice_step((high - low) / most as f64);
        if integers {
            step = step.max(1.0).round();
        }
        let first = (low / step).ceil() as i64;
        let last = (high / step).floor() as i64;
        let ticks = (first..=last).map(|i| i as f64 * step).collect();
        Self { low, high, ticks, step }
    }

    /// Ends at ticks.
    fn rounded(low: f64, high: f64, most: usize) -> Self {
        let step = nice_step((high - low) / most as f64);
        let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
        let ticks: Vec<f64> = (first..=last).map(|i| i as f64 * step).collect();
        Self { low: first as f64 * step, high: last as f64 * step, ticks, step }
    }

    /// 0 at the low end, 1 at the high one.
    fn place(&self, v: f64) -> f64 {
        ((v - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// The next of 1, 2, 5 times a power of ten.
fn nice_step(rough: f64) -> f64 {
    let power = 10_f64.powf(rough.log10().floor());
    let lead = rough / power;
    power
        * if lead <= 1.0 + 1e-9 {
            1.0
        } else if lead <= 2.0 {
            2.0
        } else if lead <= 5.0 {
            5.0
        } else {
            10.0
        }
}

/// Smallest and largest, apart even for one value.
fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        (0.0, 1.0)
    } else if high - low <= 1e-9 * high.abs() {
        let margin = if high == 0.0 { 0.5 } else { 0.5 * high.abs() };
        (low - margin, high + margin)
    } else {
        (low, high)
    }
}

fn smallest_step(xs: impl Iterator<Item = f64>) -> Option<f64> {
    let mut xs: Vec<f64> = xs.collect();
    xs.sort_unstable_by(f64::total_cmp);
    xs.dedup();
    xs.windows(2).map(|w| w[1] - w[0]).reduce(f64::min)
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    points.enumerate().fold(String::new(), |mut d, (i, (x, y))| {
        // writing to a String cannot fail
        let _ = write!(d, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        d
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_take_round_numbers() {
        let y = Axis::rounded(0.93, 2.91, 4);
        assert_eq!((y.low, y.high, y.ticks.len()), (0.5, 3.0, 6));
        let x = Axis::exact(0.0, 23.0, 6, true);
        assert_eq!(x.ticks, [0.0, 5.0, 10.0, 15.0, 20.0]);
        let one = Axis::exact(0.0, 1.0, 6, true);
        assert_eq!(one.ticks, [0.0, 1.0]);
    }

    #[test]
    fn ticks_have_the_decimals_of_their_step() {
        let text = |unit: Unit, step: f64| [unit.tick(0.0, step), unit.tick(2.0 * step, step)];
        assert_eq!(text(Unit::Plain, 0.5), ["0", "1.0"]);
        assert_eq!(text(Unit::Plain, 20.0), ["0", "40"]);
        assert_eq!(text(Unit::Plain, 0.001), ["0", "0.002"]);
        assert_eq!(text(Unit::Percent, 0.2), ["0 %", "40 %"]);
        assert_eq!(text(Unit::Percent, 0.005), ["0 %", "1.0 %"]);
        assert_eq!(text(Unit::Bytes, 2e7), ["0 B", "40 MB"]);
        assert_eq!(text(Unit::PerSecond, 5e3), ["0/s", "10 k/s"]);
    }

    #[test]
    fn one_point_and_no_spread_have_an_axis() {
        for (low, high) in [extent([3.0].into_iter()), extent([0.0, 0.0].into_iter()), extent([].into_iter())]
        {
            let axis = Axis::rounded(low, high, 4);
            assert!(axis.high > axis.low && axis.ticks.len() >= 2 && axis.ticks.len() < 12);
        }
    }
}
