use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::dataplane::digest::Digest;
use crate::dataplane::identity::{DiskId, Mode, Roots};

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn roots() -> impl Strategy<Value = Roots> {
    prop::collection::btree_map(
        "[a-z]{1,64}".prop_map(|id| DiskId::new(id).unwrap()),
        digest(),
        0..5,
    )
}

pub(crate) fn any_frame() -> impl Strategy<Value = Frame> {
    let disks = prop::collection::vec(("[a-z][a-z0-9._-]{0,63}", any::<u64>()), 0..9);
    let hello = (
        any::<u128>(),
        any::<(u64, u64)>(),
        any::<u128>(),
        any::<bool>(),
        disks,
    )
        .prop_map(|(vm, (epoch, step), pass, new, disks)| {
            Frame::Hello(Hello {
                vm: Uuid::from_u128(vm),
                epoch,
                step,
                pass: Uuid::from_u128(pass),
                mode: if new { Mode::NewFiles } else { Mode::InPlace },
                disks: disks
                    .into_iter()
                    .map(|(id, size)| DiskHello {
                        id: DiskId::new(id).unwrap(),
                        size,
                    })
                    .collect(),
            })
        });
    let welcome = (
        any::<u64>(),
        prop::option::of(roots()),
        any::<(bool, bool, bool)>(),
        prop::collection::vec(any::<u64>(), 0..9),
    )
        .prop_map(|(session, base, (partial, done, new_files), arrived)| {
            Frame::Welcome(Welcome {
                session,
                base,
                partial,
                done,
                new_files,
                arrived,
            })
        });
    let spans = prop::collection::vec((0u64..1000, 1u64..1000), 0..50).prop_map(|steps| {
        let mut at = 0;
        steps
            .into_iter()
            .map(|(gap, len)| {
                let first = at + gap;
                at = first + len;
                first..at
            })
            .collect::<Vec<_>>()
    });
    prop_oneof![
        hello,
        welcome,
        (0u16..4, spans).prop_map(|(disk, spans)| Frame::Compare { disk, spans }),
        any::<(u64, u64)>().prop_map(|(blocks, bytes)| Frame::Plan { blocks, bytes }),
        (
            0u16..4,
            any::<u64>(),
            1u32..=262_144,
            prop::collection::vec(digest(), 0..=4)
        )
            .prop_map(|(disk, offset, len, digests)| Frame::Data(Data {
                disk,
                offset,
                len,
                digests
            })),
        (0u16..4, any::<(u64, u64)>()).prop_map(|(disk, (offset, len))| Frame::Zero {
            disk,
            offset,
            len
        }),
        (roots(), "[0-9T:Z-]{0,64}").prop_map(|(roots, point)| Frame::Finish { roots, point }),
        (any::<(u64, u64)>(), ".{0,80}").prop_map(|((needed, available), message)| {
            Frame::Refuse(Refusal {
                kind: RefusalKind::NoSpace,
                message,
                needed,
                available,
            })
        }),
        (
            0u16..4,
            any::<u64>(),
            prop::collection::vec(digest(), 0..20)
        )
            .prop_map(|(disk, first, digests)| Frame::Digests {
                disk,
                first,
                digests
            }),
        Just(Frame::PlanOk),
        Just(Frame::Beat),
        any::<u128>().prop_map(|vm| Frame::Ask {
            vm: Uuid::from_u128(vm)
        }),
        prop::option::of(1u64..).prop_map(|epoch| Frame::Told { epoch }),
        any::<u64>().prop_map(|blocks| Frame::Durable { blocks }),
        roots().prop_map(|roots| Frame::Whole { roots }),
        ".{0,80}".prop_map(|message| Frame::Failed(Failure::new(FailureKind::Corrupt, message))),
    ]
}

/// Decodes one frame the way a connection does. Says how much the bounds let it allocate.
pub(crate) fn decode(bytes: &[u8]) -> Result<Frame, WireError> {
    let header = Header::decode(*bytes.first_chunk().ok_or(WireError::Short)?)?;
    assert!(header.body_len() <= MAX_BODY);
    let frame = header.decode_body(
        bytes[HEADER..]
            .get(..header.body_len())
            .ok_or(WireError::Short)?,
    )?;
    assert!(frame.payload_len() <= usize::try_from(FRAME_PAYLOAD).unwrap());
    Ok(frame)
}

proptest! {
    #[test]
    fn every_frame_survives_the_wire(frame in any_frame()) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        prop_assert_eq!(decode(&bytes), Ok(frame));
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn mutated_frames_never_panic(frame in any_frame(), at in any::<prop::sample::Index>(), value: u8, cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = decode(&bytes);
        bytes.truncate(cut.index(bytes.len() + 1));
        let _ = decode(&bytes);
    }
}

#[test]
fn another_version_is_named_before_anything_else_is_read() {
    let mut bytes = vec![1, 0, 0, 0, 2, 0, 0, 0];
    bytes.extend_from_slice(&7u16.to_le_bytes());
    assert_eq!(decode(&bytes), Err(WireError::Version(7)));
}

#[test]
fn a_length_above_its_bound_is_refused_by_the_header() {
    for kind in 0..=255u8 {
        let mut bytes = [kind, 0, 0, 0, 0, 0, 0, 0];
        bytes[4..].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = Header::decode(bytes).unwrap_err();
        assert!(
            matches!(error, WireError::TooLong | WireError::UnknownType(_)),
            "{kind}: {error}"
        );
        if let Some(bound) = Frame::bound(kind) {
            assert!(bound <= MAX_BODY, "{kind}");
        }
    }
}

#[test]
fn a_beat_is_a_header_alone() {
    let mut bytes = Vec::new();
    Frame::Beat.encode(&mut bytes);
    assert_eq!(bytes.len(), HEADER);
    // Nothing can be smuggled in with it.
    bytes[4] = 1;
    assert_eq!(decode(&bytes), Err(WireError::TooLong));
}

#[test]
fn long_text_is_cut_at_a_character() {
    let mut bytes = Vec::new();
    Frame::Failed(Failure::new(FailureKind::TargetIo, "ä".repeat(MAX_TEXT))).encode(&mut bytes);
    let Ok(Frame::Failed(failure)) = decode(&bytes) else {
        panic!()
    };
    assert_eq!(failure.message, "ä".repeat(MAX_TEXT / 2));
}
