//! What is no trace, no longer one, or one of another version.

use super::*;
use crate::file::table::{read_table, write_table};

/// The error of opening `path`, in words.
fn refusal(path: &Path) -> String {
    Trace::open(path).unwrap_err().to_string().replace(path.parent().unwrap().to_str().unwrap(), "…")
}

#[test]
fn what_is_not_a_trace_is_refused_in_a_sentence() {
    let (folder, path) = place();
    insta::assert_snapshot!(refusal(&path), @"there is no trace at `…/t.swio`: check the name, or record one with `swioscope record -o …/t.swio`");
    let file = folder.path().join("f");
    let kinds: [(&[u8], &str); 5] = [
        (b"", "an empty file"),
        (b"time,cpu\n1,2\n", "a CSV or text file"),
        (b"PAR1....", "a Parquet file"),
        (&[0x1f, 0x8b, 8], "a gzip file"),
        (&[1, 2, 3, 0xff], "a file of an unknown kind"),
    ];
    for (bytes, kind) in kinds {
        fs::write(&file, bytes).unwrap();
        let found = refusal(&file);
        assert_eq!(
            found,
            format!("`…/f` is not a trace but {kind}: a trace is a folder, give the NAME.swio folder itself")
        );
    }
    fs::create_dir(&path).unwrap();
    insta::assert_snapshot!(refusal(&path), @"`…/t.swio` is a folder but not a trace, it has no meta.json: give the NAME.swio folder itself");
    fs::write(path.join(META), r#"{"tool": "other"}"#).unwrap();
    insta::assert_snapshot!(refusal(&path), @"`…/t.swio` is not a swioscope trace, its meta.json is by `other`: give a folder made by `swioscope record`");
    fs::write(path.join(META), "[1, 2]").unwrap();
    insta::assert_snapshot!(refusal(&path), @"`…/t.swio` is not a swioscope trace, its meta.json is by another program: give a folder made by `swioscope record`");
    fs::write(path.join(META), r#"{"tool": "swioscope", "format": {"major": 2, "minor": 0}, "else": []}"#).unwrap();
    insta::assert_snapshot!(refusal(&path), @"`…/t.swio` is a trace of format 2.0, this swioscope reads 1.x: use a newer swioscope");
    fs::write(path.join(META), r#"{"tool": "swiosc"#).unwrap();
    insta::assert_snapshot!(refusal(&path), @"`…/t.swio/meta.json` cannot be understood (EOF while parsing a string at line 1 column 16): the trace was changed or damaged, restore it from a copy");
}

#[test]
fn a_damaged_trace_is_refused_in_a_sentence() {
    let (_folder, path) = place();
    written(&path, &[map(1), map(2)]);
    let events = path.join(sealed_name(0));
    let whole = fs::read(&events).unwrap();
    for cut in [whole.len() - 1, whole.len() / 2, 4] {
        fs::write(&events, &whole[..cut]).unwrap();
        let found = refusal(&path);
        assert!(found.contains("but a truncated or damaged Parquet file ("), "{found}");
    }
    fs::write(&events, "time,cpu\n1,2\n").unwrap();
    insta::assert_snapshot!(refusal(&path), @"`…/t.swio/events-00000.parquet` is not the Parquet table it should be but a CSV or text file: restore it from a copy of the trace");
    fs::write(&events, "").unwrap();
    insta::assert_snapshot!(refusal(&path), @"`…/t.swio/events-00000.parquet` is not the Parquet table it should be but an empty file: restore it from a copy of the trace");
    fs::copy(path.join(DEVICES), &events).unwrap();
    insta::assert_snapshot!(refusal(&path), @"`…/t.swio/events-00000.parquet` has no column `time_ns` of type uint64: it was made by another program or changed");
    fs::remove_file(&events).unwrap();
    insta::assert_snapshot!(refusal(&path), @"`…/t.swio/events-00000.parquet` is missing: the trace was copied or unpacked incompletely, copy it again");
    fs::write(&events, &whole).unwrap();
    fs::write(path.join(sealed_name(2)), &whole).unwrap();
    insta::assert_snapshot!(refusal(&path), @"`…/t.swio/events-00001.parquet` is missing: the trace was copied or unpacked incompletely, copy it again");
    fs::remove_file(path.join(sealed_name(2))).unwrap();
    fs::remove_file(path.join(DEVICES)).unwrap();
    insta::assert_snapshot!(refusal(&path), @"`…/t.swio/devices.parquet` is missing: the trace was copied or unpacked incompletely, copy it again");
    let mut newer = header(1);
    newer[8] = 9;
    fs::write(path.join(OPEN), newer).unwrap();
    insta::assert_snapshot!(refusal(&path), @"`…/t.swio/events.open` is an open segment of version 9, this swioscope reads version 2: use the swioscope that recorded it");
}

#[test]
fn a_segment_that_goes_back_in_time_is_refused() {
    let (_folder, path) = place();
    written(&path, &[map(1)]);
    write_table(&path.join(sealed_name(0)), &[map(5), map(4)]).unwrap();
    let mut events = Trace::open(&path).unwrap().events();
    let error = events.next().unwrap().unwrap_err();
    assert!(error.to_string().contains("one whose rows are not sorted by time"), "{error}");
    assert!(events.next().is_none());
}

#[test]
fn a_parquet_with_any_byte_changed_is_refused() {
    let (folder, _) = place();
    let path = folder.path().join("x.parquet");
    let rows = [P2mRun { pfn: 1, mfn: 2, count: 3, kind: P2mKind::Own }];
    write_table(&path, &rows).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut unnoticed = 0;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).unwrap();
        if let Ok(found) = read_table::<P2mRun>(&path) {
            assert_eq!(found, rows, "changed at {at}");
            unnoticed += 1;
        }
    }
    // Where the checksum itself is no longer recognised, everything else is right.
    assert!(unnoticed <= "swioscope.checksum".len() + 2 + "crc32:".len(), "{unnoticed}");
}

mod other_versions {
    //! Tables as later and earlier minor versions would have them.
    use super::*;

    crate::record! {
        /// [`P2mRun`] as version 1.7 may have it.
        pub struct Later {
            /// New, and first.
            node: Option<String> => Text,
            /// First frame.
            pfn: u64 => Frame,
            /// Machine frame.
            mfn: u64 => Frame,
            /// Frames.
            count: u64 => Count,
            /// Whose.
            kind: String => Text,
        }
    }

    crate::record! {
        /// [`Device`] without what it may lack.
        pub struct Earlier {
            /// Key.
            id: u32 => Id,
            /// Name.
            name: String => Text,
            /// Mask for coherent buffers.
            coherent_dma_mask: u64 => Mask,
            /// Bus limit.
            bus_dma_limit: u64 => Address,
            /// Alignment.
            min_align_mask: u64 => Mask,
        }
    }

    fn later(kind: &str) -> Later {
        Later { node: Some("n".to_owned()), pfn: 1, mfn: 2, count: 3, kind: kind.to_owned() }
    }

    #[test]
    fn a_column_more_or_a_nullable_one_less_is_read() {
        let (_folder, path) = place();
        written(&path, &[map(1)]);
        write_table(&path.join(P2M), &[later("own")]).unwrap();
        let row = Earlier { id: 0, name: "d".into(), coherent_dma_mask: 1, bus_dma_limit: 2, min_align_mask: 3 };
        write_table(&path.join(DEVICES), &[row]).unwrap();
        let meta = fs::read_to_string(path.join(META)).unwrap();
        let meta = meta
            .replace(&format!("\"minor\": {}", crate::meta::FORMAT.minor), "\"minor\": 7, \"patch\": 1")
            .replacen('{', "{ \"new\": [1],", 1);
        assert!(meta.contains("\"minor\": 7"));
        fs::write(path.join(META), meta).unwrap();

        let trace = Trace::open(&path).unwrap();
        assert_eq!(trace.meta().format.minor, 7);
        assert_eq!(trace.p2m(), [P2mRun { pfn: 1, mfn: 2, count: 3, kind: P2mKind::Own }]);
        let device = &trace.devices()[0];
        assert_eq!(
            (device.name.as_str(), device.min_align_mask, device.dma_mask, device.untrusted),
            ("d", 3, None, None)
        );
    }

    #[test]
    fn a_word_nobody_knows_is_an_error_with_its_row() {
        let (_folder, path) = place();
        written(&path, &[map(1)]);
        write_table(&path.join(P2M), &[later("own"), later("rented")]).unwrap();
        insta::assert_snapshot!(refusal(&path), @"`…/t.swio/p2m.parquet`, row 1: field `kind`: `rented` is not one of own, foreign, identity, invalid: the trace was changed or damaged, restore it from a copy");
    }
}
