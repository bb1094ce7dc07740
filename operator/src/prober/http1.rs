//! Reads an HTTP/1.x response as far as a probe needs it, without doing any I/O itself.
//!
//! Bytes go in as they arrive, in pieces of any size; what comes out depends on the bytes alone and
//! not on how they were cut. What is kept is bounded: a header block of 64 KiB, 10 KiB of the body.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use cep_core::check::BODY_LIMIT;
use cep_core::outcome::{Cause, Reason};
use httparse::{ParserConfig, Status};
use memchr::memmem;

/// The most that header blocks may hold, interim responses included.
const HEAD_LIMIT: usize = 64 * 1024;
const MAX_HEADERS: usize = 256;
/// The most that the line before a chunk may hold, extensions included.
const CHUNK_LINE_LIMIT: usize = 1024;
/// Most answers to a probe fit in this.
const FIRST_READ: usize = 2048;

/// What the header block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Of a redirect.
    pub(super) location: Option<String>,
    pub(super) framing: Framing,
}

/// Where the body ends (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// When the connection is closed.
    Close,
}

/// Collects bytes until the header block of the final response is complete.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    received: Vec<u8>,
    /// No header block ends before this.
    scanned: usize,
    /// Bytes of interim responses.
    interim: usize,
}

impl HeadReader {
    /// Where to append what was read; at least some room is left.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        self.received.reserve(FIRST_READ);
        &mut self.received
    }

    /// Call it when something was appended: the head of the final response, once it is complete.
    ///
    /// # Errors
    /// The peer does not speak HTTP/1.x.
    pub(super) fn advance(&mut self) -> Result<Option<Head>, Cause> {
        loop {
            refuse_other_protocols(&self.received)?;
            let end = self.end_of_block();
            if self.interim + end.unwrap_or(self.received.len()) > HEAD_LIMIT {
                return Err(protocol("the response headers are larger than 64 KiB"));
            }
            let Some(end) = end else { return Ok(None) };
            let head = parse(&self.received[..end])?;
            self.received.drain(..end);
            // 101 is a final answer to a request that asked for no upgrade (RFC 9110, section 15.2).
            if !(100..200).contains(&head.status) || head.status == 101 {
                return Ok(Some(head));
            }
            self.scanned = 0;
            self.interim += end;
        }
    }

    /// The bytes behind the header block.
    pub(super) fn into_rest(self) -> Vec<u8> {
        self.received
    }

    /// What it means that the connection ends here.
    pub(super) fn closed(&self) -> Cause {
        let message = if self.received.is_empty() && self.interim == 0 {
            "the server closed the connection without an answer"
        } else {
            "the server closed the connection in the middle of the response headers"
        };
        Cause::new(Reason::ConnectionReset, message)
    }

    /// The index behind the empty line; lines end in CRLF or LF (RFC 9112, section 2.2).
    fn end_of_block(&mut self) -> Option<usize> {
        while let Some(at) = memchr::memchr(b'\n', &self.received[self.scanned..]) {
            let newline = self.scanned + at;
            match &self.received[newline + 1..] {
                [b'\n', ..] => return Some(newline + 2),
                [b'\r', b'\n', ..] => return Some(newline + 3),
                [] | [b'\r'] => {
                    self.scanned = newline;
                    return None;
                }
                _ => self.scanned = newline + 1,
            }
        }
        self.scanned = self.received.len();
        None
    }
}

/// A server that greets in another protocol and then waits must not cost the whole timeout.
fn refuse_other_protocols(received: &[u8]) -> Result<(), Cause> {
    const BEGINNING: &[u8] = b"HTTP/1.";
    let seen = received.len().min(BEGINNING.len());
    if received[..seen] == BEGINNING[..seen] {
        return Ok(());
    }
    match received[0] {
        // The types of an alert and of a handshake record (RFC 8446, section 5.1).
        0x15 | 0x16 => Err(protocol("the server speaks TLS; set scheme to HTTPS")),
        _ => Err(protocol("the answer is not HTTP/1.x")),
    }
}

/// As lenient as browsers are: the question is whether the server works, not whether it is tidy.
fn parse(block: &[u8]) -> Result<Head, Cause> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default()
        .allow_spaces_after_header_name_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .parse_response_with_uninit_headers(&mut response, block, &mut headers);
    let status = match (parsed, response.code) {
        (Ok(Status::Complete(_)), Some(status)) => status,
        (Err(httparse::Error::TooManyHeaders), _) => {
            return Err(protocol("the response has more than 256 headers"));
        }
        _ => return Err(protocol("the response headers are not well-formed")),
    };
    let location = match status {
        300..400 => values(response.headers, "location").next().map(|value| text(value).into_owned()),
        _ => None,
    };
    Ok(Head { status, location, framing: framing(status, response.headers)? })
}

fn framing(status: u16, headers: &[httparse::Header<'_>]) -> Result<Framing, Cause> {
    if status == 204 || status == 304 {
        return Ok(Framing::Length(0));
    }
    if let Some(codings) = values(headers, "transfer-encoding").last() {
        let last = text(codings).rsplit(',').next().map(str::trim).map(str::to_ascii_lowercase);
        return Ok(if last.as_deref() == Some("chunked") { Framing::Chunked } else { Framing::Close });
    }
    let mut length = None;
    for value in values(headers, "content-length") {
        // A list of equal numbers is one number (RFC 9110, section 8.6).
        for item in text(value).split(',').map(str::trim) {
            let number = item.bytes().all(|b| b.is_ascii_digit()).then(|| item.parse().ok()).flatten();
            if number.is_none() || length.is_some_and(|length| Some(length) != number) {
                return Err(protocol("the response's Content-Length is not a number"));
            }
            length = number;
        }
    }
    Ok(length.map_or(Framing::Close, Framing::Length))
}

fn values<'a>(headers: &'a [httparse::Header<'a>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

fn text(value: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(value)
}

/// Looks for a text in the first 10 KiB of a body.
#[derive(Debug)]
pub(super) struct BodySearch<'a> {
    expected: memmem::Finder<'a>,
    body: Vec<u8>,
    part: Part,
    /// Of a chunked body: what is not decoded yet.
    pending: Vec<u8>,
}

/// What the next bytes of the stream are.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// The last bytes of a body with a length.
    Rest(u64),
    /// Of a body that ends with the connection.
    Endless,
    ChunkLine,
    Chunk(u64),
    AfterChunk,
}

impl<'a> BodySearch<'a> {
    pub(super) fn new(expected: &'a str, framing: Framing) -> Self {
        let part = match framing {
            Framing::Length(length) => Part::Rest(length),
            Framing::Close => Part::Endless,
            Framing::Chunked => Part::ChunkLine,
        };
        let expected = memmem::Finder::new(expected.as_bytes());
        Self { expected, body: Vec::new(), part, pending: Vec::new() }
    }

    /// Takes the next piece of the stream: whether the text is there, once that is certain.
    ///
    /// # Errors
    /// The body is not what its headers promise.
    pub(super) fn advance(&mut self, input: &[u8]) -> Result<Option<bool>, Cause> {
        match self.part {
            Part::Rest(left) => {
                let mine = clip(input, left);
                let left = left - mine.len() as u64;
                self.part = Part::Rest(left);
                Ok(self.search(mine).or((left == 0).then_some(false)))
            }
            Part::Endless => Ok(self.search(input)),
            Part::ChunkLine | Part::Chunk(_) | Part::AfterChunk => {
                let mut pending = std::mem::take(&mut self.pending);
                pending.extend_from_slice(input);
                let mut rest = pending.as_slice();
                let verdict = self.chunks(&mut rest);
                self.pending = rest.to_vec();
                verdict
            }
        }
    }

    /// What it means that the connection ends here.
    ///
    /// # Errors
    /// The body is not complete.
    pub(super) fn closed(&self) -> Result<bool, Cause> {
        match self.part {
            Part::Endless | Part::Rest(0) => Ok(false),
            _ => Err(Cause::new(
                Reason::ConnectionReset,
                "the server closed the connection in the middle of the response body",
            )),
        }
    }

    fn chunks(&mut self, input: &mut &[u8]) -> Result<Option<bool>, Cause> {
        let broken = || protocol("the chunked response body is not well-formed");
        loop {
            match self.part {
                Part::ChunkLine => match httparse::parse_chunk_size(input) {
                    Ok(Status::Complete((line, _))) if line > CHUNK_LINE_LIMIT => return Err(broken()),
                    Ok(Status::Complete((_, 0))) => return Ok(Some(false)),
                    Ok(Status::Complete((line, size))) => {
                        *input = &input[line..];
                        self.part = Part::Chunk(size);
                    }
                    Ok(Status::Partial) if input.len() <= CHUNK_LINE_LIMIT => return Ok(None),
                    Ok(Status::Partial) | Err(_) => return Err(broken()),
                },
                Part::Chunk(0) => self.part = Part::AfterChunk,
                Part::Chunk(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let mine = clip(input, left);
                    *input = &input[mine.len()..];
                    self.part = Part::Chunk(left - mine.len() as u64);
                    if let Some(verdict) = self.search(mine) {
                        return Ok(Some(verdict));
                    }
                }
                Part::AfterChunk => {
                    *input = match input {
                        [b'\r', b'\n', rest @ ..] => rest,
                        [] | [b'\r'] => return Ok(None),
                        _ => return Err(broken()),
                    };
                    self.part = Part::ChunkLine;
                }
                // Not the states of a chunked body.
                Part::Rest(_) | Part::Endless => return Ok(None),
            }
        }
    }

    fn search(&mut self, more: &[u8]) -> Option<bool> {
        let before = self.body.len();
        self.body.extend_from_slice(&more[..more.len().min(BODY_LIMIT - before)]);
        // A match that was not there before ends in the new bytes.
        let from = (before + 1).saturating_sub(self.expected.needle().len());
        if self.expected.find(&self.body[from..]).is_some() {
            return Some(true);
        }
        (self.body.len() == BODY_LIMIT).then_some(false)
    }
}

fn clip(input: &[u8], length: u64) -> &[u8] {
    &input[..usize::try_from(length).map_or(input.len(), |length| length.min(input.len()))]
}

fn protocol(message: &'static str) -> Cause {
    Cause::new(Reason::ProtocolError, message)
}

#[cfg(test)]
mod tests;
