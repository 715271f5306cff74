//! The thread that writes a trace as it is recorded.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use trace::sums::{Occupancy, Reading};
use trace::{Device, Meta, Writer};

use super::KEEP;
use super::around::Around;
use super::drain::Batch;
use super::feed::Feeder;
use super::shared::Shared;
use crate::error::CollectorError;

/// How often the trace is made safe against a SIGKILL, and newly seen p2m entries are read.
const FLUSH: Duration = Duration::from_millis(200);
/// How often sums are, which are written whole.
const SAVE_SUMS: Duration = Duration::from_secs(10);
/// And no more than one part in so many of the time goes into p2m, losses and stacks: a large p2m takes long.
const KEEP_SHARE: u32 = 10;

/// What the writer hands back at the end.
pub(super) struct Written {
    pub(super) writer: Writer,
    pub(super) p2m_changed: u64,
    pub(super) stacks_unread: u64,
    pub(super) devices: Vec<Device>,
    pub(super) notes: Vec<String>,
    pub(super) sums: Option<Reading>,
    pub(super) looks: Vec<Occupancy>,
}

pub(super) fn write(
    mut writer: Writer,
    mut feeder: Option<Feeder>,
    batches: &Receiver<Batch>,
    shared: &Shared,
    meta: &Meta,
    mut around: Around,
) -> Result<Written, CollectorError> {
    let mut flushed = Instant::now();
    let mut keep_at = flushed;
    let mut sums: Option<Reading> = None;
    let mut summed_at = flushed;
    let mut looks = Vec::new();
    writer.flush()?;
    loop {
        let batch = match batches.recv_timeout(FLUSH) {
            Ok(batch) => Some(batch),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Some(mut batch) = batch {
            around.see(&mut batch);
            if let Some(feeder) = &mut feeder {
                feeder.tell(&batch, &around);
            }
            if std::mem::take(&mut around.devices.1) {
                writer.set_devices(around.devices.0.clone());
            }
            if let Some(reading) = batch.sums {
                shared.events.store(reading.events(), Ordering::Relaxed);
                sums = Some(match sums.take() {
                    Some(earlier) => earlier.followed_by(reading),
                    None => reading,
                });
            }
            looks.append(&mut batch.looks);
            writer.extend(&batch.events)?;
        }
        if summed_at.elapsed() >= SAVE_SUMS {
            summed_at = Instant::now();
            set_sums(&mut writer, sums.as_ref(), &looks);
        }
        if flushed.elapsed() >= FLUSH {
            flushed = Instant::now();
            around.catch_up();
            let began = Instant::now();
            if let Some(feeder) = &mut feeder {
                feeder.keep_up(shared, meta, &mut around);
            }
            if began >= keep_at {
                tables(&mut writer, &mut around);
                writer.set_meta(shared.meta(meta, &around));
                keep_at = Instant::now() + KEEP.max(began.elapsed() * KEEP_SHARE);
            }
            writer.flush_events()?;
            shared.bytes.store(writer.bytes_written(), Ordering::Relaxed);
        }
    }
    let p2m_changed = around.p2m_changed();
    if let Some(feeder) = &mut feeder {
        feeder.keep_up(shared, meta, &mut around);
    }
    tables(&mut writer, &mut around);
    set_sums(&mut writer, sums.as_ref(), &looks);
    writer.flush()?;
    shared.bytes.store(writer.bytes_written(), Ordering::Relaxed);
    let (devices, stacks_unread) = (around.devices.0, around.stacks.unread());
    Ok(Written { writer, p2m_changed, stacks_unread, devices, notes: around.notes, sums, looks })
}

/// Hands the writer the sums, or the looks at the pool where there are no sums.
fn set_sums(writer: &mut Writer, sums: Option<&Reading>, looks: &[Occupancy]) {
    match sums {
        Some(reading) => writer.set_sums(reading.clone()),
        None if looks.is_empty() => {}
        None => writer.set_occupancy(looks.to_vec()),
    }
}

/// Hands the writer what has changed since the last time.
fn tables(writer: &mut Writer, around: &mut Around) {
    if let Some(runs) = around.runs() {
        writer.set_p2m(runs);
    }
    if std::mem::take(&mut around.tasks.1) {
        writer.set_tasks(around.tasks.0.clone());
    }
    if let Some(frames) = around.new_frames() {
        writer.set_stacks(frames.to_vec());
    }
}
