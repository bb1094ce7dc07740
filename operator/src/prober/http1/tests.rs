use proptest::prelude::*;

use super::*;

/// What a probe makes of a stream that arrives in these pieces and then ends.
fn read<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    expected: Option<&str>,
) -> Result<(Head, Option<bool>), Cause> {
    let mut pieces = pieces.into_iter();
    let mut reader = HeadReader::default();
    let head = loop {
        let Some(piece) = pieces.next() else { return Err(reader.closed()) };
        reader.buffer().extend_from_slice(piece);
        if let Some(head) = reader.advance()? {
            break head;
        }
    };
    let Some(expected) = expected else { return Ok((head, None)) };
    let mut search = BodySearch::new(expected, head.framing);
    if let Some(found) = search.advance(&reader.into_rest())? {
        return Ok((head, Some(found)));
    }
    for piece in pieces {
        if let Some(found) = search.advance(piece)? {
            return Ok((head, Some(found)));
        }
    }
    let found = search.closed()?;
    Ok((head, Some(found)))
}

fn whole(stream: &[u8], expected: Option<&str>) -> Result<(Head, Option<bool>), Cause> {
    read([stream], expected)
}

fn bytewise(stream: &[u8], expected: Option<&str>) -> Result<(Head, Option<bool>), Cause> {
    read(stream.chunks(1), expected)
}

fn found(stream: &[u8], expected: &str) -> bool {
    let one = whole(stream, Some(expected)).unwrap().1.unwrap();
    let many = bytewise(stream, Some(expected)).unwrap().1.unwrap();
    assert_eq!(one, many);
    one
}

fn refused(stream: &[u8], expected: Option<&str>) -> Cause {
    let one = whole(stream, expected).unwrap_err();
    assert_eq!(one, bytewise(stream, expected).unwrap_err());
    one
}

fn status(stream: &[u8]) -> u16 {
    let one = whole(stream, None).unwrap();
    assert_eq!(one, bytewise(stream, None).unwrap());
    one.0.status
}

#[test]
fn status_lines() {
    assert_eq!(status(b"HTTP/1.1 200 OK\r\n\r\n"), 200);
    assert_eq!(status(b"HTTP/1.0 503 Service Unavailable\r\nA: b\r\n\r\n"), 503);
    assert_eq!(status(b"HTTP/1.1 204\r\n\r\n"), 204);
    assert_eq!(status(b"HTTP/1.1 200 OK\nA: b\n\n"), 200);
    assert_eq!(status(b"HTTP/1.1 700 Whatever\r\n\r\n"), 700);
}

#[test]
fn untidy_headers_are_put_up_with() {
    assert_eq!(status(b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n"), 200);
    assert_eq!(status(b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n"), 200);
    assert_eq!(status(b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n"), 200);
    assert_eq!(status(b"HTTP/1.1 200 OK\r\nA: \xff\xfe\r\n\r\n"), 200);
}

#[test]
fn interim_responses_are_skipped() {
    let stream = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    assert_eq!(status(stream), 204);
    assert_eq!(status(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), 101);
    let endless = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(4096);
    assert_eq!(refused(&endless, None).message, "the response headers are larger than 64 KiB");
}

#[test]
fn other_protocols_are_recognised_at_once() {
    for (greeting, message) in [
        (&b"SSH-2.0-OpenSSH_9.9\r\n"[..], "the answer is not HTTP/1.x"),
        (b"HTTP/2.0 200\r\n", "the answer is not HTTP/1.x"),
        (b"<html>HTTP/0.9</html>", "the answer is not HTTP/1.x"),
        (b"\0\0\x12\x04\0\0\0\0\0", "the answer is not HTTP/1.x"),
        (b"\x15\x03\x01\0\x02\x02\x46", "the server speaks TLS; set scheme to HTTPS"),
    ] {
        // Without waiting for more.
        let mut reader = HeadReader::default();
        reader.buffer().extend_from_slice(greeting);
        let cause = reader.advance().unwrap_err();
        assert_eq!((cause.reason, &*cause.message), (Reason::ProtocolError, message));
        assert_eq!(refused(greeting, None), cause);
    }
}

#[test]
fn broken_heads_are_refused() {
    for stream in [&b"HTTP/1.1 2x0 OK\r\n\r\n"[..], b"HTTP/1.1\r\n\r\n", b"HTTP/1.9 200 OK\r\n\r\n"] {
        assert_eq!(refused(stream, None).message, "the response headers are not well-formed");
    }
    for length in ["x", "-1", "+1", "", "1, 2", "99999999999999999999999"] {
        let stream = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        assert_eq!(refused(stream.as_bytes(), None).message, "the response's Content-Length is not a number");
    }
    let many = ["HTTP/1.1 200 OK\r\n", &"A: b\r\n".repeat(257), "\r\n"].concat();
    assert_eq!(refused(many.as_bytes(), None).message, "the response has more than 256 headers");
}

#[test]
fn the_head_is_bounded() {
    let head = |filler: usize| ["HTTP/1.1 200 OK\r\nA: ", &"x".repeat(filler), "\r\n\r\n"].concat();
    let around = head(0).len();
    assert_eq!(status(head(HEAD_LIMIT - around).as_bytes()), 200);
    for stream in [head(HEAD_LIMIT - around + 1), head(10 * HEAD_LIMIT)] {
        assert_eq!(refused(stream.as_bytes(), None).message, "the response headers are larger than 64 KiB");
    }
}

#[test]
fn the_end_of_the_connection() {
    let closed = |stream: &[u8], expected| {
        let cause = refused(stream, expected);
        assert_eq!(cause.reason, Reason::ConnectionReset);
        cause.message
    };
    assert_eq!(whole(b"", None).unwrap_err().message, {
        let cause = read([], None).unwrap_err();
        assert_eq!(cause.reason, Reason::ConnectionReset);
        cause.message
    });
    let in_headers = "the server closed the connection in the middle of the response headers";
    assert_eq!(closed(b"HTT", None), in_headers);
    assert_eq!(closed(b"HTTP/1.1 200 OK\r\nA: b\r\n", None), in_headers);
    assert_eq!(closed(b"HTTP/1.1 100 Continue\r\n\r\n", None), in_headers);
    let in_body = "the server closed the connection in the middle of the response body";
    assert_eq!(closed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Some("z")), in_body);
    assert_eq!(closed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc", Some("z")), in_body);
    // What was looked for came before the end.
    assert!(found(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "abc"));
}

#[test]
fn bodies_with_a_length() {
    let stream = b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n\r\nreadyXYZ";
    assert!(found(stream, "ready"));
    assert!(found(stream, "y"));
    assert!(!found(stream, "readyX"), "what follows the body is not the body");
    assert!(!found(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "x"));
    assert!(!found(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nready", "ready"));
}

#[test]
fn bodies_in_chunks() {
    let stream = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n\
        3;name=value\r\nall\r\n3\r\nis \r\n0A\r\nwell today\r\n0\r\nTrailer: hidden\r\n\r\n";
    assert!(found(stream, "allis well today"));
    assert!(!found(stream, "hidden"));
    let broken = "the chunked response body is not well-formed";
    for chunks in ["x\r\n", "3\r\nabcd\r\n", "fffffffffffffffff\r\n", &format!("3;{}", "x".repeat(4096))] {
        let stream = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        assert_eq!(refused(stream.as_bytes(), Some("z")).message, broken);
    }
}

#[test]
fn bodies_that_end_with_the_connection() {
    assert!(found(b"HTTP/1.0 200 OK\r\n\r\nstate: ready", "ready"));
    assert!(!found(b"HTTP/1.0 200 OK\r\n\r\nstate: starting", "ready"));
    assert!(found(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\nready", "ready"));
}

#[test]
fn ten_kib_of_a_body_are_looked_at() {
    let at = |position: usize| {
        ["HTTP/1.1 200 OK\r\n\r\n", &"x".repeat(position), "ready", &"x".repeat(20_000)].concat()
    };
    assert!(found(at(BODY_LIMIT - 5).as_bytes(), "ready"));
    assert!(!found(at(BODY_LIMIT - 4).as_bytes(), "ready"));
    // The verdict does not wait for the end of an endless body.
    let stream = at(20_000);
    let mut search = BodySearch::new("ready", Framing::Close);
    assert_eq!(search.advance(stream.as_bytes()), Ok(Some(false)));
}

#[test]
fn the_location_of_a_redirect() {
    let location = |stream: &[u8]| whole(stream, None).unwrap().0.location;
    assert_eq!(location(b"HTTP/1.1 302 Found\r\nlocation: /a?b=c\r\n\r\n").as_deref(), Some("/a?b=c"));
    assert_eq!(location(b"HTTP/1.1 302 Found\r\n\r\n"), None);
    assert_eq!(location(b"HTTP/1.1 201 Created\r\nLocation: /a\r\n\r\n"), None);
}

/// Streams that go wrong late, and often enough not at all.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Just(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
        Just(b"HTTP/1.1 302 Found\nLocation: /x\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"Content-Length: 4\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"4\r\nneed\r\n".to_vec()),
        Just(b"2;x\r\nle\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        Just(b"needle".to_vec()),
        Just(vec![b'x'; 3000]),
        proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces(stream in prop_oneof![
        stream(),
        stream().prop_map(|rest| [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &*rest].concat()),
        proptest::collection::vec(any::<u8>(), 0..200),
    ], sizes in proptest::collection::vec(1usize..200, 1..20), expected in prop_oneof![Just(None), Just(Some("needle")), Just(Some("x"))]) {
        let mut rest = stream.as_slice();
        let mut pieces = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece);
            rest = more;
        }
        prop_assert_eq!(whole(&stream, expected), read(pieces, expected));
    }
}
