//! The bytes of every message, as deployed nodes send them, and what becomes of bytes that are no message.
//!
//! If a test here fails, nodes in the field stop understanding each other: append (a new struct with a new version), do not change.

use super::events::*;
use super::frame::*;
use super::message::*;
use crate::id::{BootId, EventId, MeshId, NodeId, TokenId};
use crate::time::Timestamp;

const LIMIT: usize = CONTROL_LIMIT;

fn signed() -> SignedStateV1 {
    SignedStateV1 { payload: vec![1, 2, 3], signer: [0xaa; 32], signature: vec![0xbb; 2] }
}

fn bundle() -> SignedBundleV1 {
    SignedBundleV1 { payload: vec![9, 8], signature: vec![7] }
}

/// One of each, with every field at a value that tells it from its neighbours.
fn examples() -> Vec<(Message, &'static str)> {
    vec![
        (
            Message::Hello(HelloV1 {
                mesh: MeshId([1; 10]),
                boot: BootId([2, 3, 4, 5]),
                hostname: "pi".into(),
                version: "0.1.0".into(),
                os: "debian 12".into(),
                platform: "linux x86_64".into(),
                kernel: "6.1".into(),
                time: Timestamp(1_795_000_000_000),
                held: Some(signed()),
                bundle_epoch: 300,
                sources: vec!["porch".into(), "yard".into()],
            }),
            "0000006e00010101010101010101010101010203040502706905302e312e300964656269616e2031320c6c696e7578207838365f363403362e3180bcd9f29e340103010203aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa02bbbbac020205706f7263680479617264",
        ),
        (
            Message::Welcome(WelcomeV1 {
                boot: BootId([2, 3, 4, 5]),
                time: Timestamp(1000),
                name: "hall".into(),
                bundle: Some(bundle()),
                renew_only: true,
            }),
            "000000120002010102030405e8070468616c6c01020908010701",
        ),
        (Message::Reject(RejectV1 { code: CloseCode::WrongMesh as u16, detail: "no".into() }), "000000040003010105026e6f"),
        (
            Message::Push(PushV1 { signed: signed(), time: Timestamp(128) }),
            "000000290004010103010203aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa02bbbb8001",
        ),
        (
            Message::Ack(AckV1 {
                epoch: 1,
                rev: 300,
                sources: vec![SourceAckV1 { source: "porch".into(), effective: 3, watch: true }],
                held: Some(signed()),
            }),
            "000000340005010101ac020105706f72636803010103010203aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa02bbbb",
        ),
        (
            Message::Detectors(DetectorsV1 {
                sources: vec![DetectorReportV1 { source: "porch".into(), phase: 5, since: Timestamp(2), detail: "gone".into(), live: 3 }],
            }),
            "0000000f000601000105706f726368050204676f6e6503",
        ),
        (
            Message::Health(HealthV1 {
                at: Timestamp(1),
                node_uptime: 2,
                machine_uptime: 3,
                cpu_millicelsius: Some(-4),
                load_centi: 5,
                mem_total_kib: 6,
                mem_available_kib: 7,
                disk_total_mib: 8,
                disk_free_mib: 9,
                unknown_frames: 10,
                clock_trusted: true,
                outbox: OutboxV1 { waiting: 300, bytes: 70_000, oldest: Some(Timestamp(9)), lost: 2, refused: 1 },
                mails: true,
                under_voltage: Some(true),
                spool: 400,
            }),
            "0000001a00070100010203010705060708090a01ac02f0a204010902010101019003",
        ),
        (Message::Look(LookV1 { source: "porch".into() }), "00000006000e010005706f726368"),
        (Message::Still(StillV1 { source: "porch".into(), length: 70_000, why: "no".into() }), "0000000c0022010005706f726368f0a204026e6f"),
        (Message::Renew(RenewV1 { csr: vec![0x30, 0x01] }), "0000000300080101023001"),
        (Message::Renewed(RenewedV1 { chain: vec![vec![0x30], vec![0x31, 0x32]] }), "0000000600090101020130023132"),
        (Message::Bundle(bundle()), "00000005000a01010209080107"),
        (
            Message::Begin(BeginV1 {
                token: TokenId([1, 2, 3, 4, 5]),
                csr: vec![0x30],
                hostname: "pi".into(),
                version: "0.1.0".into(),
                signature: vec![0xcc; 2],
            }),
            "00000013004001010102030405013002706905302e312e3002cccc",
        ),
        (
            Message::Grant(Box::new(GrantV1 {
                leaf: vec![0x30],
                issuing: vec![0x31],
                bundle: bundle(),
                coordinators: vec![CoordinatorHintV1 { node: NodeId([0xdd; 32]), port: 47100 }],
                time: Timestamp(3),
                name: "porch".into(),
            })),
            "000000340041010101300131020908010701ddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddfcef020305706f726368",
        ),
        (Message::Deny(DenyV1 { code: DenyCode::Revoked as u16, retry_after: 500 }), "000000030042010107f403"),
        (Message::Stored(StoredV1 {}), "0000000000430101"),
        (
            Message::EventKept(EventKeptV1 { id: EventId([1; 16]), rev: 300, missing: vec![MissingV1 { hash: [2; 32], from: 70_000 }] }),
            "00000036000b010001010101010101010101010101010101ac02010202020202020202020202020202020202020202020202020202020202020202f0a204",
        ),
        (
            Message::AttachmentKept(AttachmentKeptV1 { event: EventId([1; 16]), hash: [2; 32] }),
            "00000030000c0100010101010101010101010101010101010202020202020202020202020202020202020202020202020202020202020202",
        ),
        (
            Message::EventRefused(EventRefusedV1 { id: EventId([1; 16]), why: "no room".into(), again_after: Some(30) }),
            "0000001a000d010001010101010101010101010101010101076e6f20726f6f6d011e",
        ),
        (
            Message::Event(EventV1 {
                id: EventId([1; 16]),
                source: "porch".into(),
                kind: 2,
                started: Timestamp(1000),
                ended: Some(Timestamp(2000)),
                age: Some(300),
                changed: Some(5),
                state: 3,
                attachments: vec![AttachmentV1 { kind: 1, name: "a.jpg".into(), taken: Timestamp(1500), length: 70_000, hash: [2; 32] }],
                rev: 4,
                own_mail: 1,
            }),
            "00000051002001000101010101010101010101010101010105706f72636802e80701d00f01ac02010503010105612e6a7067dc0bf0a20402020202020202020202020202020202020202020202020202020202020202020401",
        ),
        (
            Message::Bytes(BytesV1 { event: EventId([1; 16]), hash: [2; 32], from: 70_000 }),
            "0000003300210100010101010101010101010101010101010202020202020202020202020202020202020202020202020202020202020202f0a204",
        ),
    ]
}

fn state() -> StateV1 {
    StateV1 {
        mesh: MeshId([1; 10]),
        epoch: 2,
        rev: 300,
        state: 1,
        reason: "somebody came home".into(),
        since: Timestamp(1_795_000_000_000),
        until: Some(Timestamp(1_795_043_200_000)),
        windows: vec![WindowV1 { state: 2, days: 0x7f, start: 1380, end: 240, from_day: Some(-1), to_day: None }],
        zone: "Europe/Berlin".into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// As a reader of the stream does it.
fn read(bytes: &[u8], limit: usize) -> Result<Option<Message>, FrameError> {
    let (header, payload) = bytes.split_at(HEADER);
    let header = Header::parse(header.try_into().unwrap(), limit)?;
    decode(header, &payload[..header.length])
}

#[test]
fn every_message_has_the_bytes_that_are_deployed() {
    for (message, frozen) in examples() {
        let bytes = encode(&message, LIMIT).unwrap();
        assert_eq!(hex(&bytes), frozen, "{message:?}");
        assert_eq!(read(&bytes, LIMIT).unwrap().as_ref(), Some(&message));
    }
}

/// The compiler asks for the new message here; it belongs into `examples` too.
#[test]
fn no_message_is_without_frozen_bytes() {
    let mut seen = [false; 21];
    for (message, _) in examples() {
        let n = match message {
            Message::Hello(_) => 0,
            Message::Welcome(_) => 1,
            Message::Reject(_) => 2,
            Message::Push(_) => 3,
            Message::Ack(_) => 4,
            Message::Detectors(_) => 5,
            Message::Health(_) => 6,
            Message::Renew(_) => 7,
            Message::Renewed(_) => 8,
            Message::Bundle(_) => 9,
            Message::Begin(_) => 10,
            Message::Grant(_) => 11,
            Message::Deny(_) => 12,
            Message::Stored(_) => 13,
            Message::EventKept(_) => 14,
            Message::AttachmentKept(_) => 15,
            Message::EventRefused(_) => 16,
            Message::Event(_) => 17,
            Message::Bytes(_) => 18,
            Message::Look(_) => 19,
            Message::Still(_) => 20,
        };
        seen[n] = true;
    }
    assert_eq!(seen, [true; 21]);
}

#[test]
fn what_is_signed_has_the_bytes_that_are_deployed() {
    let bundle = BundleV1 { mesh: MeshId([1; 10]), epoch: 2, roots: vec![vec![0x30]], coordinators: vec![NodeId([0xdd; 32])] };
    let frozen = [
        (
            hex(&to_bytes(&state()).unwrap()),
            "0101010101010101010102ac020112736f6d65626f64792063616d6520686f6d6580bcd9f29e34018098a6879f3401027fe40af0010101000d4575726f70652f4265726c696e",
        ),
        (
            hex(&to_bytes(&bundle).unwrap()),
            "010101010101010101010201013001dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
        ),
    ];
    for (bytes, frozen) in frozen {
        assert_eq!(bytes, frozen);
    }
    assert_eq!(from_bytes::<StateV1>(&to_bytes(&state()).unwrap()), Ok(state()));
}

#[test]
fn the_codes_are_those_that_are_deployed() {
    let close: Vec<u64> = CloseCode::ALL.iter().map(|code| *code as u64).collect();
    assert_eq!(close, (1..=13).collect::<Vec<u64>>());
    for code in CloseCode::ALL {
        assert_eq!(CloseCode::from_wire(code as u64), Some(code));
    }
    assert_eq!(DenyCode::Busy as u16, 1);
    assert_eq!(DenyCode::Revoked as u16, 7);
    assert_eq!((1..=8).filter_map(DenyCode::from_wire).count(), 7);
    for byte in 0..=u8::MAX {
        assert_eq!(DetectorPhase::from_wire(byte) == DetectorPhase::Watching, byte == 3, "what is not known does not watch");
    }
}

#[test]
fn what_is_too_long_is_refused_by_its_header_alone() {
    let header = |length: u32| {
        let [a, b, c, d] = length.to_be_bytes();
        [a, b, c, d, 0, 1, 1, 1]
    };
    assert!(Header::parse(header(4096), HELLO_LIMIT).is_ok());
    assert_eq!(Header::parse(header(4097), HELLO_LIMIT), Err(FrameError::TooLong { kind: 1, length: 4097, limit: HELLO_LIMIT }));
    assert!(matches!(Header::parse(header(u32::MAX), CONTROL_LIMIT), Err(FrameError::TooLong { .. })));
}

#[test]
fn what_is_too_long_to_be_read_is_not_sent() {
    let reject = Message::Reject(RejectV1 { code: 1, detail: "x".repeat(HELLO_LIMIT) });
    assert!(matches!(encode(&reject, HELLO_LIMIT), Err(FrameError::Unsendable { kind: 3, .. })));
    assert!(encode(&reject, CONTROL_LIMIT).is_ok());
}

#[test]
fn a_message_with_a_tail_is_no_message() {
    for (message, _) in examples() {
        let mut bytes = encode(&message, LIMIT).unwrap();
        bytes.push(0);
        let length = u32::try_from(bytes.len() - HEADER).unwrap();
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        assert!(matches!(read(&bytes, LIMIT), Err(FrameError::Unreadable { .. })), "{message:?}");
    }
    let mut bytes = to_bytes(&state()).unwrap();
    bytes.push(0);
    assert!(from_bytes::<StateV1>(&bytes).is_err());
}

#[test]
fn a_message_cut_short_anywhere_is_no_message_and_no_panic() {
    for (message, _) in examples() {
        let bytes = encode(&message, LIMIT).unwrap();
        let header = Header::parse(bytes[..HEADER].try_into().unwrap(), LIMIT).unwrap();
        for end in HEADER..bytes.len() {
            assert!(decode(header, &bytes[HEADER..end]).is_err(), "{message:?} cut at {end}");
        }
    }
    let bytes = to_bytes(&state()).unwrap();
    for end in 0..bytes.len() {
        assert!(from_bytes::<StateV1>(&bytes[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn a_message_with_any_byte_turned_is_read_or_refused_and_no_panic() {
    for (message, _) in examples() {
        let bytes = encode(&message, LIMIT).unwrap();
        for at in HEADER..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let _ = read(&bytes, LIMIT);
            }
        }
    }
}

#[test]
fn an_unknown_message_is_skipped_unless_it_must_be_understood() {
    let header = |kind, version, flags| Header { length: 3, kind, version, flags };
    let payload = [0xff; 3];
    assert_eq!(decode(header(999, 1, 0), &payload), Ok(None));
    assert_eq!(decode(header(4, 2, 0), &payload), Ok(None), "a later version of a message that we know");
    assert_eq!(decode(header(999, 1, MUST_UNDERSTAND), &payload), Err(FrameError::MustUnderstand { kind: 999, version: 1 }));
    assert_eq!(decode(header(4, 2, MUST_UNDERSTAND), &payload), Err(FrameError::MustUnderstand { kind: 4, version: 2 }));
    assert_eq!(decode(header(999, 1, 0xfe), &payload), Ok(None), "flags that we do not know ask for nothing");
}

#[test]
fn only_reports_may_be_skipped_by_an_older_node() {
    for (message, _) in examples() {
        let bytes = encode(&message, LIMIT).unwrap();
        let of_an_event = matches!(
            message,
            Message::Event(_) | Message::Bytes(_) | Message::EventKept(_) | Message::AttachmentKept(_) | Message::EventRefused(_)
        );
        let live = matches!(message, Message::Look(_) | Message::Still(_));
        let report = of_an_event || live || matches!(message, Message::Detectors(_) | Message::Health(_));
        assert_eq!(bytes[7] & MUST_UNDERSTAND == 0, report, "{message:?}");
    }
}

#[test]
fn a_state_that_an_attacker_made_huge_takes_no_memory() {
    // A length of 2^32 - 1 elements in a payload of few bytes.
    let mut bytes = to_bytes(&SignedStateV1 { payload: Vec::new(), signer: [0; 32], signature: Vec::new() }).unwrap();
    bytes.splice(0..1, [0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(from_bytes::<SignedStateV1>(&bytes).is_err());
    assert!(from_bytes::<DetectorsV1>(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
}
