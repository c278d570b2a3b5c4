//! Paths of resources, percent-encoded.

pub(crate) fn instance_path(name: &str, rest: &str) -> String {
    format!("/v1/instances/{}{rest}", escape(name))
}

pub(crate) fn group_path(name: &str, group: &str) -> String {
    instance_path(name, &format!("/network/groups/{}", escape(group)))
}

/// Percent-encodes what is not plain in a path or query.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        assert_eq!(instance_path("../a b", "/stop"), "/v1/instances/..%2Fa%20b/stop");
    }
}
