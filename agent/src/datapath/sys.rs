// SPDX-License-Identifier: Apache-2.0
//! The commands of `bpf(2)` that aya does not offer: links by descriptor, effective programs of a cgroup, batched map update,
//! iterators over one map or process, who is at a hook, and what a link's program cost. Called by the rest of `datapath` only.
//!
//! Invariant: every pointer handed to the kernel is to memory that outlives the call.

pub mod interface;
pub mod memory;
pub mod rows;

use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_map_info, bpf_map_type, bpf_prog_info,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `BPF_F_QUERY_EFFECTIVE` of `linux/bpf.h`: include programs inherited from ancestors.
const QUERY_EFFECTIVE: u32 = 1;
/// More programs than any host has at one hook of one cgroup.
const MAX_EFFECTIVE: usize = 64;

/// `union bpf_iter_link_info` of `linux/bpf.h`, as far as it is used here.
#[repr(C)]
#[derive(Clone, Copy)]
union IterLinkInfo {
    map: IterMap,
    task: IterTask,
    /// Its size since Linux 6.1; an older kernel takes it as long as what it does not know is zero.
    whole: [u32; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct IterMap {
    map_fd: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct IterTask {
    tid: u32,
    pid: u32,
    pid_fd: u32,
}

/// `MEMBARRIER_CMD_GLOBAL` of `linux/membarrier.h`.
const MEMBARRIER_GLOBAL: libc::c_long = 1;

/// Waits until every program that runs now, other than sleepable ones, has ended. Refused where some CPUs run without a tick.
pub fn await_programs() -> io::Result<()> {
    let none: libc::c_long = 0;
    // SAFETY: the call takes no pointer.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, none, none) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn zeroed() -> bpf_attr {
    // SAFETY: `bpf_attr` is a union of integers, for which zero is valid and what the kernel expects in unused fields.
    unsafe { std::mem::zeroed() }
}

fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is a whole `bpf_attr`; the callers below keep what it points to alive.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            cmd,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn bpf_fd(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = i32::try_from(bpf(cmd, attr)?).map_err(io::Error::other)?;
    // SAFETY: the command returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// Replaces the program of a link in place (`BPF_LINK_UPDATE`): there is no moment without a program.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Attaches a program to a map of sockets (`BPF_PROG_ATTACH`), in the place of the one that is there: sockets that are put into the
/// map from now on run it. It stays for as long as the map has a descriptor or a pin.
pub fn attach_to_sockets(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_5.__bindgen_anon_1.target_fd = raw(map);
    attr.__bindgen_anon_5.attach_bpf_fd = raw(program);
    attr.__bindgen_anon_5.attach_type = bpf_attach_type::BPF_SK_MSG_VERDICT as u32;
    bpf(bpf_cmd::BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// Attaches a program to a hook of a cgroup, beside the programs of others (`BPF_LINK_CREATE` without flags).
pub fn link_cgroup_program(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_fd = raw(cgroup);
    attr.link_create.attach_type = attach_type as u32;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Attaches a program to the tracepoint that it was loaded for (`BPF_RAW_TRACEPOINT_OPEN`).
pub fn link_tracepoint_program(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.raw_tracepoint.prog_fd = raw(program);
    bpf_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
}

/// Opens a pinned object (`BPF_OBJ_GET`).
pub fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// Pins an object at a path where nothing is (`BPF_OBJ_PIN`).
pub fn object_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens the program with this id.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    bpf_fd(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr)
}

/// What the kernel says of a link.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<bpf_link_info> {
    // SAFETY: `bpf_link_info` is a struct of integers and unions of them, for which zero is valid.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    object_info(link, &mut info)?;
    Ok(info)
}

/// Fills the description of an object (`BPF_OBJ_GET_INFO_BY_FD`): `T` is the kernel's type for objects of its kind.
fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = zeroed();
    attr.info.bpf_fd = raw(object);
    attr.info.info = std::ptr::from_mut(info) as u64;
    attr.info.info_len = size_of::<T>() as u32;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// Ids of the programs that run at `attach_type` for sockets of `cgroup`, inherited ones included.
pub fn effective_programs(cgroup: BorrowedFd<'_>, attach_type: bpf_attach_type) -> io::Result<Vec<u32>> {
    query(cgroup, attach_type, QUERY_EFFECTIVE).map(|(ids, _)| ids)
}

/// Id of the program that sockets run which are put into a map of sockets (`BPF_PROG_QUERY`, Linux 5.18).
pub fn sockets_program(map: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let (ids, _) = query(map, bpf_attach_type::BPF_SK_MSG_VERDICT, 0)?;
    Ok(ids.first().copied())
}

/// Whether a program is attached to this very cgroup in a way that allows no other one there or below (`BPF_PROG_ATTACH` without
/// flags). Links never are.
pub fn is_exclusive(cgroup: BorrowedFd<'_>, attach_type: bpf_attach_type) -> io::Result<bool> {
    query(cgroup, attach_type, 0).map(|(ids, flags)| !ids.is_empty() && flags == 0)
}

/// Ids of programs at a hook, and the flags that they were attached with.
fn query(target: BorrowedFd<'_>, attach_type: bpf_attach_type, flags: u32) -> io::Result<(Vec<u32>, u32)> {
    let mut ids = vec![0_u32; MAX_EFFECTIVE];
    let mut attr = zeroed();
    attr.query.__bindgen_anon_1.target_fd = raw(target);
    attr.query.attach_type = attach_type as u32;
    attr.query.query_flags = flags;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = MAX_EFFECTIVE as u32;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: after a successful query this member of the union holds the count.
    ids.truncate(unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize);
    // SAFETY: and this one the flags.
    Ok((ids, unsafe { attr.query.attach_flags }))
}

/// Name of the program with this id, which the kernel keeps in 15 bytes.
pub fn program_name(id: u32) -> io::Result<String> {
    let program = program_by_id(id)?;
    Ok(object_name(&program_info(program.as_fd())?.name))
}

/// Creates an array of one number, which is gone when the descriptor is closed.
pub fn create_array() -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_1.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    attr.__bindgen_anon_1.key_size = 4;
    attr.__bindgen_anon_1.value_size = 8;
    attr.__bindgen_anon_1.max_entries = 1;
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

/// Creates an array of maps that are like `template`.
pub fn create_array_of_maps(name: &str, template: BorrowedFd<'_>, entries: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_1.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
    attr.__bindgen_anon_1.key_size = 4;
    attr.__bindgen_anon_1.value_size = 4;
    attr.__bindgen_anon_1.max_entries = entries;
    attr.__bindgen_anon_1.inner_map_fd = raw(template);
    // SAFETY: this member of the union was written above; the last byte of the name stays zero.
    let to = unsafe { &mut attr.__bindgen_anon_1.map_name };
    let last = to.len() - 1;
    for (to, from) in to[..last].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

/// Whether a map of maps has an inner map at `key`. Before Linux 6.8, the kernel waits until all programs that run have ended.
pub fn map_has<K: IntoBytes + Immutable>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut id = 0_u32;
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_mut(&mut id) as u64;
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes an element of a map (`BPF_MAP_DELETE_ELEM`); one that is not there is no error.
pub fn map_delete<K: IntoBytes + Immutable>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
    match bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(drop),
    }
}

/// Takes an element out of a hash map (`BPF_MAP_LOOKUP_AND_DELETE_ELEM`, Linux 5.14): what a program adds to it until then is in what is
/// returned. `None` if it is not there.
pub fn map_take<K, V>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>>
where
    K: IntoBytes + Immutable,
    V: FromBytes,
{
    let mut value = V::new_zeroed();
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_mut(&mut value) as u64;
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Updates many elements with one call (`BPF_MAP_UPDATE_BATCH`, Linux 5.6; maps in maps since 5.14).
///
/// For a map in map, the kernel waits once for the whole batch until no program uses the replaced maps any more.
/// Returns how many leading elements were updated beside the error that stopped it.
pub fn map_update_batch<K, V>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> Result<(), (usize, io::Error)>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    assert_eq!(keys.len(), values.len(), "one value per key");
    if keys.is_empty() {
        return Ok(());
    }
    let mut attr = zeroed();
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = keys.len() as u32;
    attr.batch.map_fd = raw(map);
    bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr)
        .map(drop)
        .map_err(|error| {
            // SAFETY: the kernel wrote the number of updated elements back.
            (unsafe { attr.batch.count } as usize, error)
        })
}

/// Rows of an array read by one call: bounds the kernel's buffers.
const READ_BATCH: usize = 4_096;

/// The first `count` rows of an array (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6).
pub fn map_rows<V: FromBytes + Clone>(map: BorrowedFd<'_>, count: u32) -> io::Result<Vec<V>> {
    let mut rows = vec![V::new_zeroed(); count as usize];
    let (mut done, mut last) = (0, 0_u32);
    let mut keys = vec![0_u32; READ_BATCH];
    while done < rows.len() {
        let mut attr = zeroed();
        attr.batch.in_batch = if done == 0 {
            0
        } else {
            std::ptr::from_ref(&last) as u64
        };
        let mut next = 0_u32;
        attr.batch.out_batch = std::ptr::from_mut(&mut next) as u64;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = rows[done..].as_mut_ptr() as u64;
        attr.batch.count = READ_BATCH.min(rows.len() - done) as u32;
        attr.batch.map_fd = raw(map);
        let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
        // SAFETY: the kernel wrote the number of rows that it read.
        done += unsafe { attr.batch.count } as usize;
        last = next;
        match result {
            Ok(_) => {}
            // The end of the map.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(rows)
}

/// Starts an iterator program over the elements of `map` and opens its output.
pub fn iterate_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<File> {
    let mut info = IterLinkInfo { whole: [0; 4] };
    info.map = IterMap { map_fd: raw(map) };
    iterate(program, Some(&info))
}

/// Starts an iterator program over what the threads of a process have, and opens its output. The id is one of this process'
/// namespace; without such a process, there is nothing to iterate over. `E2BIG` before Linux 6.1.
pub fn iterate_process(program: BorrowedFd<'_>, id: u32) -> io::Result<File> {
    let mut info = IterLinkInfo { whole: [0; 4] };
    info.task = IterTask {
        tid: 0,
        pid: id,
        pid_fd: 0,
    };
    iterate(program, Some(&info))
}

/// Starts an iterator program over all that it can see of its kind, and opens its output.
pub fn iterate_all(program: BorrowedFd<'_>) -> io::Result<File> {
    iterate(program, None)
}

fn iterate(program: BorrowedFd<'_>, info: Option<&IterLinkInfo>) -> io::Result<File> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
    if let Some(info) = info {
        attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info = std::ptr::from_ref(info) as u64;
        attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info_len = size_of::<IterLinkInfo>() as u32;
    }
    let link = bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;

    let mut attr = zeroed();
    attr.iter_create.link_fd = raw(&link);
    Ok(bpf_fd(bpf_cmd::BPF_ITER_CREATE, &mut attr)?.into())
}

/// What the kernel says of a program, without what is of variable length.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: `bpf_prog_info` is a struct of integers, for which zero is valid.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    object_info(program, &mut info)?;
    Ok(info)
}

/// Ids of the maps that a program uses.
pub fn program_maps(program: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; program_info(program)?.nr_map_ids as usize];
    // SAFETY: `bpf_prog_info` is a struct of integers, for which zero is valid.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info.nr_map_ids = ids.len() as u32;
    info.map_ids = ids.as_mut_ptr() as u64;
    object_info(program, &mut info)?;
    ids.truncate(info.nr_map_ids as usize);
    Ok(ids)
}

/// Opens the map with this id.
pub fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.map_id = id;
    bpf_fd(bpf_cmd::BPF_MAP_GET_FD_BY_ID, &mut attr)
}

/// A name as the kernel gives it.
pub fn object_name(name: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = name
        .iter()
        .map(|byte| byte.cast_unsigned())
        .take_while(|byte| *byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What the kernel says of a map.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    // SAFETY: `bpf_map_info` is a struct of integers, for which zero is valid.
    let mut info: bpf_map_info = unsafe { std::mem::zeroed() };
    object_info(map, &mut info)?;
    Ok(info)
}

/// State of the clock of day, as `adjtimex(2)` returns it.
pub fn clock_state() -> io::Result<i32> {
    // SAFETY: `timex` is a struct of integers, for which zero is valid; mode 0 only reads.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `timex` is whole and lives during the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(state)
    }
}

/// Runs of a program and the time that they took, while statistics were on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// How often it ran.
    pub count: u64,
    /// How long that took in all.
    pub time: Duration,
}

/// [`Runs`] of a program.
pub fn program_runs(program: BorrowedFd<'_>) -> io::Result<Runs> {
    let info = program_info(program)?;
    Ok(Runs {
        count: info.run_cnt,
        time: Duration::from_nanos(info.run_time_ns),
    })
}
