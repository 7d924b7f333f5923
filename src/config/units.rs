//! Durations and sizes as people write them: `150ms`, `1h30m`, `2GiB`.

use std::time::Duration;

/// Text that is no duration or no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnit {
    #[error(
        "{given:?} is not a duration: write a number and a unit, such as 150ms, 30s, 5m or 1h30m"
    )]
    Duration { given: String },
    #[error(
        "{given:?} is not a size: write a number and a unit, such as 512KiB, 64MiB or 2GiB (KB, MB, GB count in thousands)"
    )]
    Size { given: String },
}

/// Parses `1h30m`, `2.5s`, `150ms`; a number alone counts seconds, as with timeout(1).
pub fn parse_duration(text: &str) -> Result<Duration, InvalidUnit> {
    let invalid = || InvalidUnit::Duration { given: text.to_owned() };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(invalid());
    }
    if let Ok(seconds) = rest.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| invalid());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let number_end =
            rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ms" => 0.001,
            "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(invalid()),
        };
        total += number.parse::<f64>().map_err(|_| invalid())? * seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(total).map_err(|_| invalid())
}

/// Parses `2GiB`, `64M`, `1.5G`, `4096`. A letter alone counts in powers of 1024, as the kernel's own tools do.
pub fn parse_size(text: &str) -> Result<u64, InvalidUnit> {
    let invalid = || InvalidUnit::Size { given: text.to_owned() };
    let trimmed = text.trim();
    let number_end =
        trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(number_end);
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(invalid()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(invalid);
    }
    let bytes = number.parse::<f64>().map_err(|_| invalid())? * factor as f64;
    // 2^63 is far above every bound, and below it a cast from f64 is exact enough for a size with a fraction.
    if (0.0..9.2e18).contains(&bytes) { Ok(bytes as u64) } else { Err(invalid()) }
}

/// Renders a duration so that [`parse_duration`] reads it back.
pub fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// Renders a size with the largest unit that divides it.
pub fn format_size(bytes: u64) -> String {
    for (unit, factor) in
        [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
    {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// For `#[serde(with = "units::duration")]`.
pub mod duration {
    use serde::{Deserializer, Serializer, de::Error};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::format_duration(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = super::scalar(from, "a duration such as 30s")?;
        super::parse_duration(&text).map_err(D::Error::custom)
    }
}

/// For `#[serde(with = "units::size")]`.
pub mod size {
    use serde::{Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::format_size(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = super::scalar(from, "a size such as 64MiB")?;
        super::parse_size(&text).map_err(D::Error::custom)
    }
}

/// Reads a YAML scalar as the text it was written as, numbers included.
pub(super) fn scalar<'de, D: serde::Deserializer<'de>>(
    from: D,
    expected: &'static str,
) -> Result<String, D::Error> {
    struct Scalar(&'static str);
    impl serde::de::Visitor<'_> for Scalar {
        type Value = String;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
        fn visit_u64<E>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_f64<E>(self, number: f64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }
    from.deserialize_any(Scalar(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_written() {
        for (text, ms) in
            [("150ms", 150), ("30s", 30_000), ("1h30m", 5_400_000), ("2", 2_000), ("0.5s", 500)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "soon", "10 parsecs", "-1s", "1h3", "nan", "1e400"] {
            assert!(parse_duration(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn sizes_are_read_as_written() {
        for (text, bytes) in [("2GiB", 2 << 30), ("64M", 64 << 20), ("1.5K", 1536), ("1KB", 1000)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "lots", "-1", "1XB", "99999999999999999999", "99999999T"] {
            assert!(parse_size(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for ms in [1, 150, 1_000, 60_000, 3_600_000, 5_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1024, 1536, 8 << 20, 1 << 30] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
