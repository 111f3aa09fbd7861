// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The access log's records: written to the ring buffer when the log is on, dropped and counted when it is full.
//!
//! Invariant: while the log is off, this costs one comparison.

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use nodemesh_abi::{AccessKind, AccessRecord, InternalError, effects::Finished};

use crate::{kernel_sock::KernelSock, maps, place::current_settings, record::Record, stats};

/// Whether this event is one of those that are logged.
#[inline(always)]
fn sampled() -> bool {
    match current_settings().access_sample {
        0 => false,
        1 => true,
        // SAFETY: the helper takes no pointer.
        every => unsafe { bpf_get_prandom_u32() }.is_multiple_of(every),
    }
}

/// Logs a finished request.
#[inline(always)]
pub fn request(record: Record, finished: &Finished, sk: KernelSock, rtt_us: u32, stream: u32) {
    if !sampled() {
        return;
    }
    write(record, sk.retransmits(), |row| {
        row.kind = AccessKind::Request as u8;
        row.start_ns = finished.start_ns;
        row.end_ns = finished.end_ns;
        row.first_byte_ns = finished.first_byte_ns;
        row.first_token_ns = finished.first_token_ns;
        row.request_bytes = finished.request_bytes;
        row.response_bytes = finished.response_bytes;
        row.chunks = finished.chunks;
        row.stream = stream;
        row.rtt_us = rtt_us;
        row.outcome = finished.outcome as u8;
        row.status = finished.status;
        row.cancel = finished.cancel.map_or(0, |cancel| cancel as u8 + 1);
    });
}

/// Logs the end of a connection.
#[inline(always)]
pub fn connection(record: Record, sk: Option<KernelSock>) {
    if !sampled() {
        return;
    }
    // SAFETY: the helper takes no pointer; the record is live.
    let (now, opened, up, down, requests) = unsafe {
        let meter = &raw const (*record.0).meter;
        (
            bpf_ktime_get_ns(),
            (*record.0).opened_ns,
            (*meter).bytes_up,
            (*meter).bytes_down,
            (*meter).requests,
        )
    };
    write(record, sk.map_or(0, KernelSock::retransmits), |row| {
        row.kind = AccessKind::Connection as u8;
        row.start_ns = opened;
        row.end_ns = now;
        row.request_bytes = up;
        row.response_bytes = down;
        row.chunks = requests;
        row.rtt_us = sk.map_or(0, KernelSock::rtt_us);
    });
}

#[inline(always)]
fn write(record: Record, retransmits: u32, fill: impl FnOnce(&mut AccessRecord)) {
    let Some(mut entry) = maps::access.reserve(0) else {
        stats::internal_error(InternalError::AccessRecord);
        return;
    };
    // SAFETY: the entry has room for one record, every field of which is written below; the connection's record is live.
    unsafe {
        let row: *mut AccessRecord = entry.as_mut_ptr();
        let connection = record.0;
        row.write(AccessRecord {
            client_addr: (*connection).client_addr,
            backend_addr: (*connection).backend_addr,
            cookie: (*connection).cookie,
            workload: (*connection).workload,
            start_ns: 0,
            end_ns: 0,
            first_byte_ns: 0,
            first_token_ns: 0,
            request_bytes: 0,
            response_bytes: 0,
            service: (*connection).service,
            backend: (*connection).backend,
            chunks: 0,
            stream: 0,
            rtt_us: 0,
            retransmits,
            client_port: (*connection).client_port,
            backend_port: (*connection).backend_port,
            kind: 0,
            vantage: (*connection).meter.vantage,
            wire: (*connection).meter.wire,
            outcome: 0,
            status: 0,
            cancel: 0,
            pad: [0; 6],
        });
        fill(&mut *row);
    }
    entry.submit(0);
}
