//! The frames that travel between two agents: what they carry, how they are encoded, how long each may be. Pure.
//!
//! A frame is a header of eight bytes (type, three zero bytes, length of the body), a body, and after a [`Frame::Data`] its
//! payload. The first frame of a connection is [`Frame::Hello`], or a question; its body begins with the version of the protocol, and that
//! beginning never changes, so that both sides can always say why they do not understand each other.

mod codec;
mod frame;

pub use frame::{
    Data, DiskHello, Failure, FailureKind, Frame, Hello, Refusal, RefusalKind, Welcome,
};

use super::blocks::FRAME_PAYLOAD;

/// The version of the protocol that this build speaks, and the only one.
pub const VERSION: u16 = 4;

/// Bytes in a frame's header.
pub const HEADER: usize = 8;

/// Longest body of any frame, in bytes. The payload of a data frame comes on top and has its own bound.
pub const MAX_BODY: usize = 128 * 1024;

/// Most disks of one VM.
pub const MAX_DISKS: usize = 64;

/// Most digests in one frame.
pub const MAX_DIGESTS: usize = 1024;

/// Most ranges in one request to compare.
pub const MAX_SPANS: usize = 4096;

/// Longest text in a refusal or failure, in bytes; longer text is cut when it is sent.
pub const MAX_TEXT: usize = 1024;

/// Longest name of a point in time, in bytes.
pub const MAX_POINT: usize = 64;

/// Bytes that are no frame of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The body ends before its fields do.
    #[error("a frame ends too early")]
    Short,
    /// A length or count is above its bound.
    #[error("a frame or one of its fields is longer than allowed")]
    TooLong,
    /// A type of frame that this version does not have.
    #[error("frame type {0} is not known")]
    UnknownType(u8),
    /// A field has a value that it cannot have.
    #[error("a frame has a field with an impossible value")]
    Malformed,
    /// The peer speaks another version of the protocol.
    #[error("the peer speaks version {0} of the protocol, this side speaks {VERSION}")]
    Version(u16),
}

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    body: usize,
}

impl Header {
    /// Reads a header and checks its length against what its type allows, before anything is allocated for it.
    ///
    /// # Errors
    /// [`WireError`] when no frame has such a header.
    pub fn decode(bytes: [u8; HEADER]) -> Result<Self, WireError> {
        let [kind, a, b, c, length @ ..] = bytes;
        let body = usize::try_from(u32::from_le_bytes(length)).map_err(|_| WireError::TooLong)?;
        let bound = Frame::bound(kind).ok_or(WireError::UnknownType(kind))?;
        if [a, b, c] != [0; 3] {
            return Err(WireError::Malformed);
        }
        if body > bound {
            return Err(WireError::TooLong);
        }
        Ok(Self { kind, body })
    }

    /// Bytes of the body that follows; at most [`MAX_BODY`].
    #[must_use]
    pub fn body_len(self) -> usize {
        self.body
    }

    /// Whether it is that of a [`Frame::Beat`], which has no body.
    #[must_use]
    pub fn is_beat(self) -> bool {
        self.kind == Frame::Beat.kind()
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`WireError`] when the bytes are not a body of this type.
    pub fn decode_body(self, body: &[u8]) -> Result<Frame, WireError> {
        Frame::decode(self.kind, body)
    }
}

impl Frame {
    /// Appends the frame to `out`, header included. The payload of [`Frame::Data`] is not part of it and follows.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[self.kind(), 0, 0, 0, 0, 0, 0, 0]);
        self.encode_body(out);
        let body = out.len() - start - HEADER;
        out[start + 4..start + HEADER]
            .copy_from_slice(&u32::try_from(body).unwrap_or(u32::MAX).to_le_bytes());
    }

    /// Bytes of payload that follow the frame; at most 256 KiB.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Data(data) => {
                usize::try_from(u64::from(data.len).min(FRAME_PAYLOAD)).unwrap_or(0)
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests;
