//! Sizes as users write them.

/// A size in MiB, or with a unit such as `512m` or `2g`, as MiB.
///
/// # Errors
/// A sentence.
pub fn mebibytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let bare = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, factor) = match bare.as_bytes().last() {
        Some(b'm') => (bare.trim_end_matches('m'), 1),
        Some(b'g') => (bare.trim_end_matches('g'), 1 << 10),
        Some(b't') => (bare.trim_end_matches('t'), 1 << 20),
        _ => (bare, 1),
    };
    let number: u64 =
        number.trim().parse().map_err(|_| "expected MiB, or a size such as 512m or 2g".to_owned())?;
    match number.checked_mul(factor) {
        Some(0) => Err("cannot be 0".to_owned()),
        Some(size) => Ok(size),
        None => Err("is too large".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_have_units_or_are_mebibytes() {
        for (text, mebibytes) in [("512", 512), ("512m", 512), ("2g", 2048), ("2GiB", 2048), ("1t", 1 << 20)]
        {
            assert_eq!(super::mebibytes(text), Ok(mebibytes));
        }
        for bad in ["", "0", "g", "-1", "1.5g", "99999999999999999t"] {
            assert!(super::mebibytes(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,20}") {
            drop(mebibytes(&text));
        }
    }
}
