//! The undo journal as a file: append, sync, scan. What its bytes mean is in [`crate::dataplane::journal`].

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::fs::{Disk, Fs, Open};
use crate::dataplane::blocks::BLOCK;
use crate::dataplane::identity::Point;
use crate::dataplane::journal::{self, ALIGN, Codec, HEAD, Head, Header, Kind, RECORDS};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 256 * 1024;

/// An open journal.
#[derive(Debug)]
pub(crate) struct JournalFile {
    file: Arc<dyn Disk>,
    header: Header,
    codec: Codec,
    /// Where the next record goes.
    end: u64,
    /// Up to where everything is synced.
    synced: u64,
    sequence: u64,
    buffer: Vec<u8>,
}

/// What a scan found.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) header: Header,
    /// Where the records that count end.
    pub(crate) end: u64,
    sequence: u64,
    pub(crate) committed: Option<Point>,
}

impl JournalFile {
    /// Makes a journal with room for `space` bytes, durably: the file, its room and its name (S10).
    pub(crate) fn create(fs: &dyn Fs, path: &Path, header: Header, space: u64) -> io::Result<Self> {
        let Some(bytes) = header.encode() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "too many disks for one journal",
            ));
        };
        fs.remove(path)?;
        let file = fs.open(path, Open::CreateNew)?;
        let made = file
            .reserve(space)
            .and_then(|()| file.write_at(0, &bytes))
            .and_then(|()| file.sync());
        let made = made.and_then(|()| path.parent().map_or(Ok(()), |dir| fs.sync_dir(dir)));
        if let Err(error) = made {
            // Without room there is no journal; nothing has been written under it.
            let _ = fs.remove(path);
            return Err(error);
        }
        let codec = Codec::new(&header);
        Ok(Self {
            file,
            header,
            codec,
            end: RECORDS,
            synced: RECORDS,
            sequence: 0,
            buffer: Vec::new(),
        })
    }

    /// Opens the journal for more records after those that count, with room for `space` bytes more.
    pub(crate) fn reopen(fs: &dyn Fs, path: &Path, scan: Scan, space: u64) -> io::Result<Self> {
        let file = fs.open(path, Open::Write)?;
        let end = scan.end.next_multiple_of(ALIGN);
        // What lies after them was never synced. It goes, so that no later scan can meet it.
        file.set_size(end)?;
        file.reserve(end + space)?;
        file.sync()?;
        let codec = Codec::new(&scan.header);
        Ok(Self {
            file,
            header: scan.header,
            codec,
            end,
            synced: end,
            sequence: scan.sequence,
            buffer: Vec::new(),
        })
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Adds the pre-image of at most one block.
    pub(crate) fn append(
        &mut self,
        kind: Kind,
        disk: u16,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<()> {
        let payload = if kind == Kind::Zero { &[] } else { bytes };
        let head = Head {
            kind,
            disk,
            offset,
            len: bytes.len() as u64,
        };
        self.codec
            .encode(self.sequence, &head, payload, &mut self.buffer);
        self.sequence += 1;
        if self.buffer.len() >= BUFFER {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(self.end, &self.buffer)?;
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes every record durable. Only then may what they protect be written.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() && self.end == self.synced {
            return Ok(());
        }
        let done = self.flush().and_then(|()| self.file.sync());
        if let Err(error) = done {
            // S12: after a failed sync the cache may show records that the disk does not have. They must not count.
            let _ = self.file.set_size(self.synced);
            return Err(error);
        }
        // Nothing that is synced is written again, not even a part of its sector.
        self.end = self.end.next_multiple_of(ALIGN);
        self.synced = self.end;
        Ok(())
    }

    /// Up to where everything is durable.
    pub(crate) fn synced(&self) -> u64 {
        self.synced
    }

    /// Adds the commit record and makes it durable: from here on recovery goes forward.
    pub(crate) fn commit(&mut self, point: &Point) -> io::Result<()> {
        let payload = journal::encode_commit(point);
        self.append(Kind::Commit, 0, 0, &payload)?;
        self.sync()
    }

    /// What the journal is about. `None`: there is none, or its header is torn.
    pub(crate) fn read_header(fs: &dyn Fs, path: &Path) -> io::Result<Option<Header>> {
        Ok(open_readable(fs, path)?.map(|(_, header)| header))
    }

    /// Reads the records that count, in order. `limit` bounds what may count when a sync is known to have failed. `None`: there is
    /// no journal, or its header is torn.
    pub(crate) fn scan(
        fs: &dyn Fs,
        path: &Path,
        limit: Option<u64>,
        mut each: impl FnMut(&Head, &[u8]) -> io::Result<()>,
    ) -> io::Result<Option<Scan>> {
        let Some((file, header)) = open_readable(fs, path)? else {
            return Ok(None);
        };
        let codec = Codec::new(&header);
        let mut scan = Scan {
            header,
            end: RECORDS,
            sequence: 0,
            committed: None,
        };
        let mut payload = vec![0; usize::try_from(BLOCK).unwrap_or(0)];
        let size = file.size()?.min(limit.unwrap_or(u64::MAX));
        while scan.committed.is_none() {
            // The next record follows at once, or after the pad that ends a batch.
            let found = match read_record(
                file.as_ref(),
                &codec,
                scan.sequence,
                scan.end,
                size,
                &mut payload,
            )? {
                Some(head) => Some((scan.end, head)),
                None => {
                    let next = scan.end.next_multiple_of(ALIGN);
                    read_record(
                        file.as_ref(),
                        &codec,
                        scan.sequence,
                        next,
                        size,
                        &mut payload,
                    )?
                    .map(|head| (next, head))
                }
            };
            let Some((at, head)) = found else { break };
            let body = &payload[..usize::try_from(head.payload()).unwrap_or(0)];
            if head.kind == Kind::Commit {
                scan.committed = journal::decode_commit(body);
            } else {
                each(&head, body)?;
            }
            scan.end = at + HEAD as u64 + head.payload();
            scan.sequence += 1;
        }
        Ok(Some(scan))
    }
}

fn open_readable(fs: &dyn Fs, path: &Path) -> io::Result<Option<(Arc<dyn Disk>, Header)>> {
    if !fs.exists(path)? {
        return Ok(None);
    }
    let file = fs.open(path, Open::Read)?;
    let mut bytes = vec![0; usize::try_from(RECORDS).unwrap_or(0)];
    let read = file.read_at(0, &mut bytes)?;
    Ok(Header::decode(&bytes[..read]).map(|header| (file, header)))
}

fn read_record(
    file: &dyn Disk,
    codec: &Codec,
    sequence: u64,
    at: u64,
    size: u64,
    payload: &mut [u8],
) -> io::Result<Option<Head>> {
    let mut bytes = [0; HEAD];
    if at + HEAD as u64 > size || file.read_at(at, &mut bytes)? < HEAD {
        return Ok(None);
    }
    let Some(head) = codec.head(sequence, &bytes) else {
        return Ok(None);
    };
    let body = &mut payload[..usize::try_from(head.payload()).unwrap_or(0)];
    if at + HEAD as u64 + head.payload() > size
        || file.read_at(at + HEAD as u64, body)? < body.len()
    {
        return Ok(None);
    }
    Ok(codec.check(&bytes, body).then_some(head))
}
