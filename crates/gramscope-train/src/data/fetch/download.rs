//! Downloading over HTTP, and continuing where an earlier download broke off (RFC 9110, section 14).

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::super::DataError;
use super::Partial;

/// Receives the rest of the `expected` bytes at `url` into `partial`; a server that is silent for `patience` is given up.
/// A server that does not know ranges sends everything again.
pub(super) fn continue_download(
    url: &str,
    expected: u64,
    partial: &mut Partial,
    patience: Duration,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(), DataError> {
    let agent = agent(patience);
    let have = partial.bytes()?;
    let mut response = request(&agent, url, have, partial)?;
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        response = request(&agent, url, 0, partial)?;
    }
    let offer = Offer::of(&response, have)
        .ok_or_else(|| DataError::Refused { url: url.to_owned(), status: response.status().as_u16() })?;
    if let Some(found) = offer.total.filter(|&total| total != expected) {
        return Err(DataError::WrongOffer { url: url.to_owned(), found, expected });
    }
    receive(response.into_body(), Download { url, expected, start: offer.start }, partial, progress)
}

fn agent(patience: Duration) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("gramscope/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(patience))
        .timeout_connect(Some(patience))
        .timeout_recv_response(Some(patience))
        .timeout_per_read(Some(patience))
        .build()
        .into()
}

/// Asks for everything from byte `start` on.
fn request(agent: &Agent, url: &str, start: u64, partial: &Partial) -> Result<Response<Body>, DataError> {
    let mut request = agent.get(url);
    if start > 0 {
        request = request.header(header::RANGE, format!("bytes={start}-"));
    }
    request.call().map_err(|error| DataError::Unreachable {
        url: url.to_owned(),
        reason: error.to_string(),
        partial: partial.path.clone(),
        received: start > 0,
    })
}

/// What a server's answer holds.
struct Offer {
    /// The first byte that it sends.
    start: u64,
    /// Bytes of the whole file, where it says so.
    total: Option<u64>,
}

impl Offer {
    /// The whole file, or the part of it from byte `asked` on; anything else is a refusal.
    fn of(response: &Response<Body>, asked: u64) -> Option<Self> {
        match response.status() {
            StatusCode::OK => Some(Self { start: 0, total: response.body().content_length() }),
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
                let offer = Self::of_range(range)?;
                (offer.start == asked).then_some(offer)
            }
            _ => None,
        }
    }

    /// Reads a Content-Range such as `bytes 200-999/1000` or `bytes 200-999/*`.
    fn of_range(range: &str) -> Option<Self> {
        let (range, total) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (start, _) = range.split_once('-')?;
        Some(Self { start: start.trim().parse().ok()?, total: total.trim().parse().ok() })
    }
}

/// What is being downloaded, and from which byte on.
struct Download<'a> {
    url: &'a str,
    expected: u64,
    start: u64,
}

/// Writes the body to `partial` from byte `start` on, never past `expected`.
fn receive(
    body: Body,
    download: Download<'_>,
    partial: &mut Partial,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(), DataError> {
    let Download { url, expected, start } = download;
    let write_error = |error| DataError::io("write", &partial.path)(error);
    partial.file.set_len(start).map_err(write_error)?;
    partial.file.seek(SeekFrom::Start(start)).map_err(write_error)?;
    let interrupted = |reason: String, received: u64| DataError::Interrupted {
        url: url.to_owned(),
        reason,
        received,
        expected,
        partial: partial.path.clone(),
    };
    let mut body = body.into_reader();
    let mut buffer = vec![0; 1 << 16];
    let mut received = start;
    progress(received, Some(expected));
    loop {
        let read = body.read(&mut buffer).map_err(|error| interrupted(error.to_string(), received))?;
        if read == 0 {
            break;
        }
        let after = received + read as u64;
        if after > expected {
            return Err(DataError::WrongOffer { url: url.to_owned(), found: after, expected });
        }
        partial.file.write_all(&buffer[..read]).map_err(write_error)?;
        received = after;
        progress(received, Some(expected));
    }
    if received < expected {
        return Err(interrupted("the server ended it early".to_owned(), received));
    }
    Ok(())
}
