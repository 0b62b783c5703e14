#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};
use tempfile::TempDir;
use tiny_http::{Header as HttpHeader, Response, Server};

use super::*;

const FOLDER: &str = "made-up-bin";
const CONTENT: &[u8] = b"three records of something";

/// An entry of a test archive: its name goes into the header as it is, however hostile.
struct Item<'a> {
    name: &'a str,
    kind: EntryType,
    content: &'a [u8],
    link: &'a str,
}

fn file<'a>(name: &'a str, content: &'a [u8]) -> Item<'a> {
    Item { name, kind: EntryType::Regular, content, link: "" }
}

fn archive_of(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for item in items {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..item.name.len()].copy_from_slice(item.name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..item.link.len()].copy_from_slice(item.link.as_bytes());
        header.set_entry_type(item.kind);
        header.set_mode(0o644);
        header.set_size(item.content.len() as u64);
        header.set_cksum();
        builder.append(&header, item.content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

/// A proper archive, padded with bytes that do not compress so that it takes several reads.
fn good_archive() -> Vec<u8> {
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..300_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let folder = Item { name: "made-up-bin/", kind: EntryType::Directory, content: b"", link: "" };
    archive_of(&[folder, file("made-up-bin/data.bin", CONTENT), file("made-up-bin/noise.bin", &noise)])
}

fn md5(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn described<'a>(bytes: &[u8], md5: &'a str) -> Archive<'a> {
    Archive { file: "made-up.tar.gz", md5, bytes: bytes.len() as u64, folder: FOLDER, unpacked_bytes: 1_000_000 }
}

#[derive(Clone, Copy, PartialEq)]
enum Ranges {
    Known,
    Ignored,
    Unsatisfiable,
}

/// A server on localhost that offers one file. It runs until the test process ends.
struct FileServer {
    url: String,
    /// The Range header of every request so far.
    asked: Arc<Mutex<Vec<Option<String>>>>,
}

impl FileServer {
    fn start(content: Vec<u8>, ranges: Ranges) -> Self {
        let server = Server::http("127.0.0.1:0").unwrap();
        let url = format!("http://{}/somewhere/", server.server_addr());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for request in server.incoming_requests() {
                assert_eq!(request.url(), "/somewhere/made-up.tar.gz");
                let range = request.headers().iter().find(|h| h.field.equiv("Range")).map(|h| h.value.to_string());
                log.lock().unwrap().push(range.clone());
                // What Apache says of every .gz file; the client must not decompress on that account.
                let encoding: HttpHeader = "Content-Encoding: gzip".parse().unwrap();
                let start = range.map(|range| range[6..].trim_end_matches('-').parse::<usize>().unwrap());
                let response = match (start, ranges) {
                    (Some(start), Ranges::Known) => {
                        let end = content.len() - 1;
                        let range = format!("Content-Range: bytes {start}-{end}/{}", content.len());
                        Response::from_data(&content[start..])
                            .with_status_code(206)
                            .with_header(range.parse::<HttpHeader>().unwrap())
                    }
                    (Some(_), Ranges::Unsatisfiable) => Response::from_data(&b""[..]).with_status_code(416),
                    _ => Response::from_data(content.clone()),
                };
                request.respond(response.with_header(encoding).with_chunked_threshold(usize::MAX)).unwrap();
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<Option<String>> {
        self.asked.lock().unwrap().clone()
    }
}

/// A server that sends the head and the first `sent` bytes of `content`, then closes the connection or falls silent.
fn failing_server(content: Vec<u8>, sent: usize, falls_silent: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut silent = Vec::new();
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut head = [0; 4096];
            assert!(connection.read(&mut head).unwrap() > 0);
            write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len()).unwrap();
            connection.write_all(&content[..sent]).unwrap();
            if falls_silent {
                silent.push(connection);
            } else {
                connection.shutdown(Shutdown::Both).unwrap();
            }
        }
    });
    url
}

fn quietly(archive: &Archive<'_>, cache: &TempDir, url: &str) -> Result<PathBuf, DataError> {
    fetch(archive, cache.path(), url, &mut |_, _| {})
}

fn part(cache: &TempDir) -> PathBuf {
    cache.path().join("made-up.tar.gz.part")
}

/// The cache holds the unpacked folder and nothing else.
fn assert_installed(cache: &TempDir, folder: &Path) {
    assert_eq!(fs::read(folder.join("data.bin")).unwrap(), CONTENT);
    let left: Vec<_> = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [FOLDER]);
}

/// The cache holds nothing but the partial file, if that.
fn assert_nothing_installed(cache: &TempDir) {
    for entry in fs::read_dir(cache.path()).unwrap() {
        assert_eq!(entry.unwrap().path(), part(cache));
    }
}

#[test]
fn downloads_checks_unpacks_and_is_idempotent() {
    let bytes = good_archive();
    let sum = md5(&bytes);
    let server = FileServer::start(bytes.clone(), Ranges::Known);
    let cache = TempDir::new().unwrap();
    let mut heard = Vec::new();
    let mut progress = |received, total| heard.push((received, total));
    let folder = fetch(&described(&bytes, &sum), &cache.path().join("deep/er"), &server.url, &mut progress).unwrap();
    assert_eq!(folder, cache.path().join("deep/er").join(FOLDER));
    assert_eq!(fs::read(folder.join("data.bin")).unwrap(), CONTENT);
    assert!(heard.len() > 2 && heard.is_sorted());
    assert_eq!(*heard.last().unwrap(), (bytes.len() as u64, Some(bytes.len() as u64)));

    fetch(&described(&bytes, &sum), &cache.path().join("deep/er"), &server.url, &mut |_, _| {}).unwrap();
    assert_eq!(server.asked(), [None], "the second call needs no download");
}

#[test]
fn resumes_from_a_half_file() {
    let bytes = good_archive();
    let sum = md5(&bytes);
    let server = FileServer::start(bytes.clone(), Ranges::Known);
    let cache = TempDir::new().unwrap();
    let half = bytes.len() / 2;
    fs::write(part(&cache), &bytes[..half]).unwrap();
    let mut first = None;
    let mut progress = |received, _| first = first.or(Some(received));
    let folder = fetch(&described(&bytes, &sum), cache.path(), &server.url, &mut progress).unwrap();
    assert_eq!(first, Some(half as u64));
    assert_eq!(server.asked(), [Some(format!("bytes={half}-"))]);
    assert_installed(&cache, &folder);
}

#[test]
fn starts_over_where_the_server_knows_no_ranges() {
    for ranges in [Ranges::Ignored, Ranges::Unsatisfiable] {
        let bytes = good_archive();
        let sum = md5(&bytes);
        let server = FileServer::start(bytes.clone(), ranges);
        let cache = TempDir::new().unwrap();
        fs::write(part(&cache), b"something else altogether").unwrap();
        let folder = quietly(&described(&bytes, &sum), &cache, &server.url).unwrap();
        assert_installed(&cache, &folder);
    }
}

#[test]
fn a_complete_partial_file_needs_no_server_and_a_bad_one_is_fetched_again() {
    let bytes = good_archive();
    let sum = md5(&bytes);
    let cache = TempDir::new().unwrap();
    fs::write(part(&cache), &bytes).unwrap();
    let folder = quietly(&described(&bytes, &sum), &cache, "http://127.0.0.1:1/").unwrap();
    assert_installed(&cache, &folder);

    let server = FileServer::start(bytes.clone(), Ranges::Known);
    let cache = TempDir::new().unwrap();
    fs::write(part(&cache), vec![7; bytes.len()]).unwrap();
    let folder = quietly(&described(&bytes, &sum), &cache, &server.url).unwrap();
    assert_eq!(server.asked(), [None]);
    assert_installed(&cache, &folder);
}

#[test]
fn a_wrong_checksum_deletes_the_download_and_says_so() {
    let bytes = good_archive();
    let sum = md5(&bytes);
    let server = FileServer::start(bytes.clone(), Ranges::Known);
    let cache = TempDir::new().unwrap();
    // The first half is of an older version of the file.
    fs::write(part(&cache), vec![1; bytes.len() / 2]).unwrap();
    let error = quietly(&described(&bytes, &sum), &cache, &server.url).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, DataError::WrongChecksum { .. }), "{message}");
    assert!(message.contains(&sum) && message.contains("deleted"), "{message}");
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);

    let folder = quietly(&described(&bytes, &sum), &cache, &server.url).unwrap();
    assert_installed(&cache, &folder);
}

#[test]
fn a_broken_connection_keeps_what_came_and_the_next_call_continues() {
    let bytes = good_archive();
    let sum = md5(&bytes);
    let cache = TempDir::new().unwrap();
    let sent = bytes.len() / 3;
    let error = quietly(&described(&bytes, &sum), &cache, &failing_server(bytes.clone(), sent, false)).unwrap_err();
    let message = error.to_string();
    let DataError::Interrupted { received, .. } = error else { panic!("{message}") };
    assert!(message.contains("made-up.tar.gz.part") && message.contains("continues"), "{message}");
    assert_eq!(received, sent as u64);
    assert_eq!(fs::read(part(&cache)).unwrap(), &bytes[..sent]);

    let server = FileServer::start(bytes.clone(), Ranges::Known);
    let folder = quietly(&described(&bytes, &sum), &cache, &server.url).unwrap();
    assert_eq!(server.asked(), [Some(format!("bytes={sent}-"))]);
    assert_installed(&cache, &folder);
}

#[test]
fn a_silent_server_is_given_up() {
    let bytes = good_archive();
    let sum = md5(&bytes);
    let cache = TempDir::new().unwrap();
    let url = failing_server(bytes.clone(), 1000, true);
    let patience = Duration::from_millis(300);
    let error = fetch_patiently(&described(&bytes, &sum), cache.path(), &url, patience, &mut |_, _| {}).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, DataError::Interrupted { received: 1000, .. }), "{message}");
    assert_eq!(fs::metadata(part(&cache)).unwrap().len(), 1000);
}

#[test]
fn an_unreachable_server_leaves_the_partial_file() {
    let bytes = good_archive();
    let sum = md5(&bytes);
    let cache = TempDir::new().unwrap();
    fs::write(part(&cache), &bytes[..10]).unwrap();
    // A port that was free a moment ago: nobody listens.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = quietly(&described(&bytes, &sum), &cache, &format!("http://{address}")).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, DataError::Unreachable { received: true, .. }), "{message}");
    assert_eq!(fs::read(part(&cache)).unwrap(), &bytes[..10]);
    // Where the message says that it may be laid.
    assert!(message.contains(&part(&cache).display().to_string()), "{message}");
    fs::write(part(&cache), &bytes).unwrap();
    let folder = quietly(&described(&bytes, &sum), &cache, &format!("http://{address}")).unwrap();
    assert_installed(&cache, &folder);
}

#[test]
fn something_of_another_size_is_refused_before_it_is_stored() {
    let bytes = good_archive();
    let sum = md5(&bytes);
    let server = FileServer::start(b"<html>please log in to the network</html>".to_vec(), Ranges::Ignored);
    let cache = TempDir::new().unwrap();
    fs::write(part(&cache), &bytes[..10]).unwrap();
    let error = quietly(&described(&bytes, &sum), &cache, &server.url).unwrap_err();
    assert!(matches!(error, DataError::WrongOffer { found: 41, .. }), "{error}");
    assert_eq!(fs::read(part(&cache)).unwrap(), &bytes[..10]);
}

#[test]
fn another_process_at_work_is_noticed() {
    let bytes = good_archive();
    let sum = md5(&bytes);
    let cache = TempDir::new().unwrap();
    let holder = File::create(part(&cache)).unwrap();
    holder.lock().unwrap();
    let error = quietly(&described(&bytes, &sum), &cache, "http://127.0.0.1:1/").unwrap_err();
    assert!(matches!(error, DataError::Busy { .. }), "{error}");
}

/// Unpacks a hostile archive and returns the message; nothing may have been installed, inside the cache or beside it.
fn refused(items: &[Item<'_>]) -> String {
    let bytes = archive_of(items);
    let sum = md5(&bytes);
    let outside = TempDir::new().unwrap();
    let cache = TempDir::new_in(outside.path()).unwrap();
    fs::write(part(&cache), &bytes).unwrap();
    let error = quietly(&described(&bytes, &sum), &cache, "http://127.0.0.1:1/").unwrap_err();
    assert!(matches!(error, DataError::Archive { .. } | DataError::Io { .. }), "{error}");
    assert_nothing_installed(&cache);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "something was written outside the cache");
    error.to_string()
}

#[test]
fn links_are_refused() {
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Char] {
        let link = Item { name: "made-up-bin/link", kind, content: b"", link: "/etc/passwd" };
        let message = refused(&[file("made-up-bin/data.bin", CONTENT), link]);
        assert!(message.contains("made-up-bin/link") && message.contains("neither a file nor a folder"), "{message}");
    }
}

#[test]
fn paths_that_lead_outside_are_refused() {
    for name in ["../escaped", "made-up-bin/../../escaped", "/tmp/escaped", "another-folder/escaped", "escaped", "."] {
        let message = refused(&[file("made-up-bin/data.bin", CONTENT), file(name, b"x")]);
        assert!(message.contains("outside the folder"), "{name}: {message}");
    }
}

#[test]
fn archives_that_unpack_to_too_much_are_refused() {
    let zeros = vec![0; 1_000_001];
    let message = refused(&[file("made-up-bin/data.bin", &zeros)]);
    assert!(message.contains("1000000 bytes"), "{message}");
    // No single file is too large, but all of them are; then endless empty folders, which claim no bytes at all.
    let third = vec![0; 400_000];
    refused(&["made-up-bin/a", "made-up-bin/b", "made-up-bin/c"].map(|name| file(name, &third)));
    let folders: Vec<Item<'_>> =
        (0..5000).map(|_| Item { name: "made-up-bin/", kind: EntryType::Directory, content: b"", link: "" }).collect();
    refused(&folders);
}

#[test]
fn a_file_is_never_written_twice() {
    refused(&[file("made-up-bin/data.bin", CONTENT), file("made-up-bin/data.bin", b"other")]);
}

#[test]
fn a_damaged_archive_is_refused() {
    let mut bytes = good_archive();
    bytes.truncate(bytes.len() / 2);
    let sum = md5(&bytes);
    let cache = TempDir::new().unwrap();
    fs::write(part(&cache), &bytes).unwrap();
    quietly(&described(&bytes, &sum), &cache, "http://127.0.0.1:1/").unwrap_err();
    assert_nothing_installed(&cache);

    let message = refused(&[]);
    assert!(message.contains("no folder made-up-bin"), "{message}");
}

#[test]
fn the_published_archives_unpack_within_their_bounds() {
    for (archive, format) in [(CIFAR10, cifar::CIFAR10), (CIFAR100, cifar::CIFAR100)] {
        let records: usize = format.train.iter().chain([&format.test]).map(|file| file.records).sum();
        let pixels = records * (3 * cifar::SIDE * cifar::SIDE + format.labels.len());
        assert!((pixels as u64) < archive.unpacked_bytes);
        assert_eq!(archive.md5.len(), 32);
    }
}
