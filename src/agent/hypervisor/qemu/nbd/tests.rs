use std::io::{self, Cursor, Read, Write};

use proptest::prelude::*;

use super::*;

/// A server that has said everything beforehand.
struct Script(Cursor<Vec<u8>>);

impl Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn option_reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = codec::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn handshake(size: u64) -> Vec<u8> {
    let mut bytes = codec::GREETING_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&codec::OPTION_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&3_u16.to_be_bytes());
    bytes.extend(option_reply(codec::OPTION_STRUCTURED_REPLY, 1, &[]));
    let mut context = 7_u32.to_be_bytes().to_vec();
    context.extend_from_slice(ALLOCATION.as_bytes());
    bytes.extend(option_reply(codec::OPTION_SET_META_CONTEXT, 4, &context));
    bytes.extend(option_reply(codec::OPTION_SET_META_CONTEXT, 1, &[]));
    let mut export = 0_u16.to_be_bytes().to_vec();
    export.extend_from_slice(&size.to_be_bytes());
    export.extend_from_slice(&1_u16.to_be_bytes());
    bytes.extend(option_reply(codec::OPTION_GO, 3, &export));
    bytes.extend(option_reply(codec::OPTION_GO, 1, &[]));
    bytes
}

fn chunk(done: bool, kind: u16, handle: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = 0x668e_33ef_u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&u16::from(done).to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&handle.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn data(done: bool, handle: u64, offset: u64, content: &[u8]) -> Vec<u8> {
    chunk(
        done,
        1,
        handle,
        &[&offset.to_be_bytes()[..], content].concat(),
    )
}

fn open(size: u64, rest: &[Vec<u8>]) -> io::Result<NbdClient<Script>> {
    let bytes = [handshake(size), rest.concat()].concat();
    NbdClient::handshake(
        Script(Cursor::new(bytes)),
        "disk0",
        &[ALLOCATION.to_owned()],
    )
}

#[test]
fn a_read_in_pieces_with_a_hole() {
    let hole = [&8_u64.to_be_bytes()[..], &4_u32.to_be_bytes()].concat();
    let mut client = open(
        4096,
        &[
            data(false, 1, 12, b"late"),
            chunk(false, 2, 1, &hole),
            data(true, 1, 0, b"beginnin"),
        ],
    )
    .unwrap();
    assert_eq!(client.size(), 4096);
    let mut buf = [1; 16];
    client.read_at(0, &mut buf).unwrap();
    assert_eq!(&buf, b"beginnin\0\0\0\0late");
}

#[test]
fn an_error_of_the_server_ends_one_read_only() {
    let error = [&5_u32.to_be_bytes()[..], &6_u16.to_be_bytes(), b"broken"].concat();
    let mut client = open(
        4096,
        &[
            chunk(false, 0x8001, 1, &error),
            chunk(true, 0, 1, &[]),
            data(true, 2, 0, b"fine"),
        ],
    )
    .unwrap();
    let mut buf = [0; 4];
    let words = client.read_at(0, &mut buf).unwrap_err().to_string();
    assert!(
        words.contains("broken") && words.contains("NBD error 5"),
        "{words}"
    );
    client.read_at(0, &mut buf).unwrap();
    assert_eq!(&buf, b"fine");
}

#[test]
fn nothing_is_read_beyond_the_end() {
    let mut client = open(40, &[]).unwrap();
    assert!(client.read_at(40, &mut [0; 1]).is_err());
    assert!(client.read_at(u64::MAX, &mut [0; 2]).is_err());
}

#[test]
fn missing_bytes_and_foreign_answers_kill_the_connection() {
    for answer in [
        data(true, 1, 0, b"abc"),
        data(true, 9, 0, b"abcd"),
        data(true, 1, 2, b"abcd"),
        chunk(true, 5, 1, &[0; 12]),
    ] {
        let mut client = open(4096, &[answer]).unwrap();
        assert!(client.read_at(0, &mut [0; 4]).is_err());
        let error = client.read_at(0, &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    }
}

#[test]
fn data_and_holes_of_a_disk() {
    let extents = [7_u32, 100, 0, 50, 3, 30, 2, 20, 0]
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .collect::<Vec<_>>();
    let mut client = open(200, &[chunk(true, 5, 1, &extents)]).unwrap();
    assert_eq!(client.next_data(0).unwrap(), Some(0..100));
    assert_eq!(client.next_data(40).unwrap(), Some(40..100));
    assert_eq!(client.next_data(100).unwrap(), Some(180..200));
    assert_eq!(client.next_data(200).unwrap(), None);
}

#[test]
fn a_context_that_is_not_granted_is_an_error() {
    let bytes = handshake(4096);
    let wanted = [ALLOCATION.to_owned(), bitmap_context("g")];
    let error = NbdClient::handshake(Script(Cursor::new(bytes)), "disk0", &wanted)
        .err()
        .map(|error| error.to_string());
    assert!(error.is_some_and(|words| words.contains("qemu:dirty-bitmap:g")));
}

proptest! {
    #[test]
    fn garbage_is_an_error_and_never_a_panic(keep in 0_usize..400, garbage in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = [handshake(4096), data(true, 1, 0, &[7; 64])].concat();
        bytes.truncate(keep);
        bytes.extend(garbage);
        if let Ok(mut client) = NbdClient::handshake(Script(Cursor::new(bytes)), "disk0", &[ALLOCATION.to_owned()]) {
            let _ = client.read_at(0, &mut [0; 64]);
            let _ = client.next_data(0);
            let _ = client.extents(ALLOCATION, 0..4096);
        }
    }
}
