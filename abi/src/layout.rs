// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The two macros that make a struct part of the ABI. Used beside each struct, nowhere else.
//!
//! Invariant: a type that `abi_struct!` accepts has no padding and accepts any bit pattern.

/// Asserts size and field offsets of an ABI struct and, in user space, makes it an `aya::Pod`.
macro_rules! abi_struct {
    ($name:ident: $size:literal { $($field:ident: $offset:literal),+ $(,)? }) => {
        const _: () = {
            const fn plain_bytes<T: Copy + zerocopy::FromBytes + zerocopy::IntoBytes>() {}
            // Names every field: a new one that the list above forgets does not compile.
            const fn every_field_is_listed(value: &$name) {
                let $name { $($field: _),+ } = value;
            }
            let _ = every_field_is_listed;
            plain_bytes::<$name>();
            assert!(size_of::<$name>() == $size);
            $(assert!(core::mem::offset_of!($name, $field) == $offset);)+
        };

        // SAFETY: `plain_bytes` above proves that the type is `Copy`, valid for any bit pattern and free of
        // padding, which is what `Pod` asks for.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}

/// Declares a field-less enum that indexes an array of counters and names itself for logs and metric labels.
macro_rules! counter_index {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        $vis enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// Every variant, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// Number of counters.
            pub const COUNT: usize = Self::ALL.len();

            /// The word used in logs and as metric label value.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

pub(crate) use {abi_struct, counter_index};
