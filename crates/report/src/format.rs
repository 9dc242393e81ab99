//! Numbers as people read them. Decimal units: 1 MB is 1,000,000 bytes.

/// Groups of three, separated by a comma.
#[must_use]
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `n` things: `1 round`, `2 rounds`.
#[must_use]
pub fn counted(n: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Three significant digits and a unit of 1000: `1.36 MB`.
#[must_use]
pub fn bytes(n: f64) -> String {
    scaled(n, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// Three significant digits and a unit of 1000: `135 M`.
#[must_use]
pub fn short(n: f64) -> String {
    scaled(n, &["", "k", "M", "G", "T", "P"]).trim_end().to_owned()
}

fn scaled(n: f64, units: &[&str]) -> String {
    let mut value = n;
    let mut unit = 0;
    // 999.5 would print as 1000
    while value.abs() >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let text = if unit == 0 && value.fract() == 0.0 { format!("{value:.0}") } else { significant(value, 3) };
    format!("{text} {}", units[unit])
}

/// `digits` significant digits without an exponent where that stays short.
#[must_use]
pub fn significant(x: f64, digits: i32) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    if !x.is_finite() {
        return if x.is_nan() { "not a number".to_owned() } else { format!("{x}") };
    }
    let decimals = usize::try_from(digits - 1).unwrap_or(0);
    let scientific = format!("{x:.decimals$e}");
    // after rounding: 0.9996 has the exponent of 1.00
    let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if !(-4..=9).contains(&exponent) {
        return scientific;
    }
    format!("{x:.*}", usize::try_from(digits - 1 - exponent).unwrap_or(0))
}

/// `0.8312` as `83.1 %`.
#[must_use]
pub fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

/// `4.2 s`, `3 min 5 s`, `2 h 10 min`.
#[must_use]
pub fn seconds(s: f64) -> String {
    if !s.is_finite() {
        return "unknown".to_owned();
    }
    let whole = s.round().max(0.0) as u64;
    match whole {
        0..10 if s < 9.95 => format!("{} s", significant(s, 2)),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A mean loss in nats.
#[must_use]
pub fn loss(x: f64) -> String {
    if x.abs() < 1000.0 { format!("{x:.3}") } else { significant(x, 4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [count(0), count(999), count(1_000), count(12_345_678)],
            ["0", "999", "1,000", "12,345,678"]
        );
        assert_eq!([counted(1, "round"), counted(0, "round")], ["1 round", "0 rounds"]);
        assert_eq!([bytes(999.0), bytes(1_360_000.0), bytes(999_960.0)], ["999 B", "1.36 MB", "1.00 MB"]);
        assert_eq!([short(134_515_008.0), short(12.0)], ["135 M", "12"]);
        assert_eq!([percent(0.8312), percent(1.0)], ["83.1 %", "100.0 %"]);
        assert_eq!(
            [seconds(0.0), seconds(0.043), seconds(9.99), seconds(185.0), seconds(7_800.0)],
            ["0 s", "0.043 s", "10 s", "3 min 5 s", "2 h 10 min"]
        );
        assert_eq!(
            [significant(0.000_012, 2), significant(1234.5, 3), significant(-0.5, 2)],
            ["1.2e-5", "1234", "-0.50"]
        );
    }
}
