//! Amounts on the command line: lengths of time, and bytes.
//!
//! Invariant: a number and its unit, nothing between them; what is no such amount is refused with examples.

/// Seconds in `90s`, `30m`, `24h`, `7d`.
pub(crate) fn seconds(text: &str) -> Result<u32, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 24 * 3600)];
    let seconds = amount(text, &units).filter(|seconds| *seconds > 0);
    let fits = seconds.and_then(|seconds| u32::try_from(seconds).ok());
    fits.ok_or_else(|| "give a length of time such as 90s, 30m, 24h or 7d".to_owned())
}

/// Bytes in `500MiB`, `10GiB`, `1000`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let units = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("B", 1),
        ("", 1),
    ];
    let bytes = amount(text, &units).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "give a number of bytes such as 500MiB or 10GiB".to_owned())
}

fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (unit, size) = units.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number = text.strip_suffix(unit)?;
    // A number may have a sign, an amount may not.
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| is_plain)?;
    number.checked_mul(*size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_a_number_and_a_unit() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("24h"), Ok(86_400));
        assert_eq!(seconds("7d"), Ok(604_800));
        assert_eq!(bytes("10GiB"), Ok(10 << 30));
        assert_eq!(bytes("1000"), Ok(1000));
        assert_eq!(bytes("7B"), Ok(7));
        for wrong in [
            "",
            "h",
            "0s",
            "24",
            "-1h",
            "+1h",
            "1 h",
            "1.5h",
            "99999999d",
        ] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "GiB", "0", "-1", "1GB", "1 GiB", "99999999999TiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
