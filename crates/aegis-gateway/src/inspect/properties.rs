//! What holds for any bytes.

use aegis_policy::Name;
use proptest::prelude::*;

use super::tests::{EVIL, GOOD, doubtful, hello, is_good};
use super::*;

/// Pieces of requests and of what is none.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<String> = doubtful(EVIL)
        .into_iter()
        .chain(doubtful(GOOD))
        .chain(
            [
                "GET / HTTP/1.1\r\nHost: good.example\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 5\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n",
                "5\r\nGET /\r\n",
                "0\r\n\r\n",
                "0\r\nX: y\r\n\r\n",
                "Host: evil.example\r\n",
                "\r\n",
                "GET / ",
                " HTTP/1.1\r\n",
                "HTTP/1.0\r\nHost: good.example\r\n\r\n",
                "Connection: keep-alive\r\n",
            ]
            .map(str::to_owned),
        )
        .collect();
    let one = prop_oneof![
        6 => prop::sample::select(known).prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    (prop::collection::vec(one, 1..5), changes).prop_map(|(parts, changes)| {
        let mut bytes = parts.concat();
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes
    })
}

/// All requests in these bytes by another parser, with all of them of the allowed host. What is cut off counts as far as it
/// goes.
fn all_good(mut rest: &[u8]) -> Result<(), String> {
    while !rest.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(length)) = request.parse(rest) else {
            return Err(format!("no request: {:?}", String::from_utf8_lossy(rest)));
        };
        let named = |wanted: &str| -> Vec<String> {
            let all = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(wanted));
            all.map(|header| String::from_utf8_lossy(header.value).into_owned()).collect()
        };
        let host = named("host");
        // Names are compared without regard to case (RFC 9110, section 4.2.3).
        let is_good = |name: &str| name.eq_ignore_ascii_case(GOOD);
        if host.len() != 1 || !host[0].split(':').next().is_some_and(is_good) {
            return Err(format!("another host: {host:?}"));
        }
        rest = &rest[length..];
        let (lengths, chunked) = (named("content-length"), named("transfer-encoding"));
        match (lengths.as_slice(), chunked.as_slice()) {
            ([], []) => {}
            ([one], []) => {
                let count: usize = one.parse().map_err(|_| one.clone())?;
                rest = rest.get(count..).unwrap_or_default();
            }
            ([], [one]) if one == "chunked" => rest = after_chunks(rest)?,
            other => return Err(format!("lengths: {other:?}")),
        }
    }
    Ok(())
}

fn after_chunks(mut rest: &[u8]) -> Result<&[u8], String> {
    loop {
        match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete((length, 0))) => {
                let mut headers = [httparse::EMPTY_HEADER; 16];
                rest = &rest[length..];
                return match httparse::parse_headers(rest, &mut headers) {
                    Ok(httparse::Status::Complete((length, _))) => Ok(&rest[length..]),
                    Ok(httparse::Status::Partial) => Ok(&[]),
                    Err(error) => Err(error.to_string()),
                };
            }
            Ok(httparse::Status::Complete((length, size))) => {
                let end = length + usize::try_from(size).map_err(|error| error.to_string())?;
                match rest.get(end..end + 2) {
                    Some(b"\r\n") => rest = &rest[end + 2..],
                    Some(other) => return Err(format!("after a chunk: {other:?}")),
                    None => return Ok(&[]),
                }
            }
            Ok(httparse::Status::Partial) => return Ok(&[]),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// What passes of these bytes, in pieces of this size, and how it ends.
fn passes(bytes: &[u8], piece: usize, strict: bool) -> (Vec<u8>, Result<(), Refusal>) {
    let (mut inspector, mut pass) = (Inspector::new(strict), Vec::new());
    let result = bytes.chunks(piece).try_for_each(|part| inspector.feed(part, &mut pass, &mut is_good));
    (pass, result)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn all_that_passes_are_requests_to_allowed_names_by_another_parser_too(bytes in pieces()) {
        let (pass, _) = passes(&bytes, 1000, true);
        prop_assert!(bytes.starts_with(&pass));
        prop_assert_eq!(all_good(&pass), Ok(()));
    }

    #[test]
    fn how_bytes_are_cut_changes_nothing(bytes in pieces(), piece in 1usize..40, strict: bool) {
        let whole = passes(&bytes, usize::MAX, strict);
        let cut = passes(&bytes, piece, strict);
        prop_assert_eq!(whole.1.is_err(), cut.1.is_err());
        // What ends badly may have ended before its last good part was cut off.
        prop_assert!(whole.0.starts_with(&cut.0) || cut.0.starts_with(&whole.0));
        if whole.1.is_ok() {
            prop_assert_eq!(whole.0, cut.0);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_pass_in_order(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        start in prop::sample::select(vec![&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n"]),
        answer in prop::collection::vec(any::<u8>(), 0..300),
        piece in 1usize..300,
        strict: bool,
    ) {
        let all = [start, &bytes].concat();
        let (mut inspector, mut pass) = (Inspector::new(strict), Vec::new());
        for part in all.chunks(piece) {
            if inspector.feed(part, &mut pass, &mut |_| true).is_err() { break; }
            inspector.answered(&answer);
            let _wait = inspector.waits_for();
        }
        let _late = inspector.late(&mut pass);
        prop_assert!(all.starts_with(&pass));
    }

    #[test]
    fn damaged_greetings_never_pass_for_another_name(at in 0usize..140, byte: u8, piece in 1usize..50, answer in prop::collection::vec(any::<u8>(), 0..90)) {
        let mut bytes = hello(Some(GOOD), 40);
        if let Some(one) = bytes.get_mut(at) { *one = byte; }
        let (mut inspector, mut pass) = (Inspector::new(true), Vec::new());
        let mut claimed = Vec::new();
        let mut approve = |claim: Claim| { claimed.push(claim.clone()); is_good(claim) };
        let result = bytes.chunks(piece).try_for_each(|part| inspector.feed(part, &mut pass, &mut approve));
        inspector.answered(&answer);
        prop_assert!(pass.is_empty() || (result.is_ok() && claimed == [Name::new(GOOD).ok()]));
    }
}
