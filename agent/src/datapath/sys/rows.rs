// SPDX-License-Identifier: Apache-2.0
//! Rows of a map as bytes, whatever they mean: how a map of one layout is read into a map of another. Called by `carry`.
//!
//! Invariant: every buffer handed to the kernel is as long as the map says its keys and values are.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya_obj::generated::{bpf_cmd, bpf_map_type};
use nix::errno::Errno;

use super::{bpf, map_info, object_get, raw, zeroed};

/// What the kernel says of a map.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// A `bpf_map_type`.
    pub kind: u32,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
}

impl Form {
    /// Whether rows are numbered from 0, and so all there from the beginning.
    pub fn is_array(self) -> bool {
        self.kind == bpf_map_type::BPF_MAP_TYPE_ARRAY as u32
    }

    /// Whether rows can be read and written from outside, one value each.
    pub fn is_readable(self) -> bool {
        let hashes = [
            bpf_map_type::BPF_MAP_TYPE_HASH,
            bpf_map_type::BPF_MAP_TYPE_LRU_HASH,
            bpf_map_type::BPF_MAP_TYPE_LPM_TRIE,
        ];
        self.is_array() || hashes.iter().any(|kind| *kind as u32 == self.kind)
    }
}

/// A map, of which only the form is known.
#[derive(Debug)]
pub struct Rows {
    map: OwnedFd,
    /// Most rows that it has.
    pub capacity: u32,
    /// Its form.
    pub form: Form,
}

impl Rows {
    /// The map pinned at `path`; `None` if nothing is pinned there.
    pub fn pinned(path: &Path) -> io::Result<Option<Self>> {
        let map = match object_get(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            map => map?,
        };
        let info = map_info(map.as_fd())?;
        let form = Form {
            kind: info.type_,
            key: info.key_size as usize,
            value: info.value_size as usize,
        };
        let capacity = info.max_entries;
        Ok(Some(Self { map, capacity, form }))
    }

    /// The key after `key`, the first one without; `None` after the last.
    pub fn next_key(&self, key: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        let mut next = vec![0; self.form.key];
        let mut attr = zeroed();
        attr.__bindgen_anon_2.map_fd = raw(&self.map);
        attr.__bindgen_anon_2.key = key.map_or(0, |key| self.checked(key).as_ptr() as u64);
        attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
        match bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => Ok(Some(next)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The value of `key`; `None` if it has none.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.form.value];
        let mut attr = zeroed();
        attr.__bindgen_anon_2.map_fd = raw(&self.map);
        attr.__bindgen_anon_2.key = self.checked(key).as_ptr() as u64;
        attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
        match bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the value of `key` `value`; false if there is no room for it.
    pub fn put(&self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        assert_eq!(value.len(), self.form.value, "a value of this map");
        let mut attr = zeroed();
        attr.__bindgen_anon_2.map_fd = raw(&self.map);
        attr.__bindgen_anon_2.key = self.checked(key).as_ptr() as u64;
        attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
        let full = [Errno::E2BIG, Errno::ENOSPC, Errno::ENOMEM];
        match bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) {
            Ok(_) => Ok(true),
            Err(error)
                if full
                    .iter()
                    .any(|errno| error.raw_os_error() == Some(*errno as i32)) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn checked<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        assert_eq!(key.len(), self.form.key, "a key of this map");
        key
    }
}
