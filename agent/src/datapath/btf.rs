// SPDX-License-Identifier: Apache-2.0
//! A reader of BTF, the kernel's type information, for one question: where in a structure is a field. Used by `offsets`.
//!
//! The format is that of the kernel's `Documentation/bpf/btf.rst`. Invariant: no input makes it panic, recurse or read outside
//! of the two sections; what is not well-formed is an error or is not found.

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// Bytes of `struct btf_header` that every version has.
const HEADER_LEN: usize = 24;
/// Words of `struct btf_type`, which leads every type.
const TYPE_WORDS: usize = 3;
/// Words of `struct btf_member`.
const MEMBER_WORDS: usize = 3;
/// Members that one search looks at: far more than any structure of the kernel has.
const MAX_MEMBERS: usize = 65_536;
/// Modifiers between a member and its structure: more than a compiler makes.
const MAX_MODIFIERS: usize = 16;

/// Why bytes are not BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// The header is missing or of another format, version or byte order.
    #[error("the header is not one of BTF version {VERSION} in this machine's byte order")]
    Header,
    /// A section goes beyond the end.
    #[error("the data ends before its sections do")]
    Truncated,
    /// A kind of type that this reader does not know, so that it cannot tell where the next type begins.
    #[error("type {id} is of the unknown kind {kind}; this kernel is newer than this agent")]
    Kind {
        /// Id of the type.
        id: usize,
        /// Its kind.
        kind: u32,
    },
}

/// Kinds, by the kernel's numbers (`BTF_KIND_*` of `linux/btf.h`).
mod kind {
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const TYPE_TAG: u32 = 18;
}

/// Words that follow the `struct btf_type` of a `kind` with `vlen` elements.
fn trailing_words(kind: u32, vlen: usize) -> Option<usize> {
    Some(match kind {
        // PTR, FWD, the modifiers, FUNC, FLOAT, TYPE_TAG.
        2 | 7..=12 | 16 | 18 => 0,
        // INT, VAR, DECL_TAG.
        1 | 14 | 17 => 1,
        // ARRAY.
        3 => 3,
        // ENUM, FUNC_PROTO.
        6 | 13 => vlen * 2,
        // STRUCT, UNION, DATASEC, ENUM64.
        4 | 5 | 15 | 19 => vlen * 3,
        _ => return None,
    })
}

/// Parsed BTF, borrowing the bytes.
pub struct Btf<'a> {
    /// The type section: every record in it is made of words.
    words: &'a [[u8; 4]],
    strings: &'a [u8],
    /// Where each type begins in `words`, by id less 1: id 0 is `void`, which is not written down.
    types: Vec<u32>,
}

/// The first words of a type.
#[derive(Clone, Copy)]
struct TypeHeader {
    name: u32,
    info: u32,
    /// Size in bytes, or the id of another type.
    size_or_type: u32,
}

impl TypeHeader {
    fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn vlen(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Whether the offsets of its members also hold the sizes of bit-fields.
    fn has_bit_fields(self) -> bool {
        self.info >> 31 == 1
    }
}

/// A structure or union.
#[derive(Clone, Copy)]
pub struct Composite<'a> {
    members: &'a [[u8; 4]],
    has_bit_fields: bool,
}

/// A member of a structure or union.
struct Member {
    name: u32,
    type_id: u32,
    bit_offset: u32,
}

impl<'a> Btf<'a> {
    /// Finds the sections and the beginning of each type.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let (types, strings) = sections(bytes)?;
        let (words, _) = types.as_chunks::<4>();
        let mut btf = Self {
            words,
            strings,
            types: Vec::with_capacity(words.len() / 6),
        };
        let mut at = 0;
        while at < words.len() {
            let header = btf.header(at).ok_or(BtfError::Truncated)?;
            let kind = header.kind();
            let id = btf.types.len() + 1;
            let trailing = trailing_words(kind, header.vlen()).ok_or(BtfError::Kind { id, kind })?;
            btf.types.push(at as u32);
            at += TYPE_WORDS + trailing;
        }
        if at == words.len() {
            Ok(btf)
        } else {
            Err(BtfError::Truncated)
        }
    }

    /// The structure called `name`.
    pub fn structure(&self, name: &str) -> Option<Composite<'a>> {
        self.types.iter().find_map(|at| {
            let header = self.header(*at as usize)?;
            let found = header.kind() == kind::STRUCT && self.is_named(header.name, name);
            found.then(|| self.composite(*at as usize, header))?
        })
    }

    /// The structure or union called `name`.
    pub fn composite_named(&self, name: &str) -> Option<Composite<'a>> {
        self.types.iter().find_map(|at| {
            let header = self.header(*at as usize)?;
            let is_composite = matches!(header.kind(), kind::STRUCT | kind::UNION);
            (is_composite && self.is_named(header.name, name))
                .then(|| self.composite(*at as usize, header))?
        })
    }

    /// Offset, in bits, of the field `name` of `within`, also inside anonymous structures and unions.
    pub fn bit_offset(&self, within: Composite<'a>, name: &str) -> Option<u32> {
        let mut left = MAX_MEMBERS;
        let mut waiting = vec![(within, 0_u32)];
        while let Some((composite, base)) = waiting.pop() {
            for member in composite.members() {
                left = left.checked_sub(1)?;
                let offset = base.checked_add(member.bit_offset)?;
                if self.is_named(member.name, name) {
                    return Some(offset);
                }
                if self.is_named(member.name, "")
                    && let Some(inner) = self.resolve(member.type_id)
                {
                    waiting.push((inner, offset));
                }
            }
        }
        None
    }

    /// The structure or union that `id` is, perhaps by another name or qualified.
    fn resolve(&self, mut id: u32) -> Option<Composite<'a>> {
        for _ in 0..MAX_MODIFIERS {
            let at = *self.types.get((id as usize).checked_sub(1)?)? as usize;
            let header = self.header(at)?;
            match header.kind() {
                kind::STRUCT | kind::UNION => return self.composite(at, header),
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = header.size_or_type;
                }
                _ => return None,
            }
        }
        None
    }

    fn composite(&self, at: usize, header: TypeHeader) -> Option<Composite<'a>> {
        let members = self
            .words
            .get(at + TYPE_WORDS..)?
            .get(..header.vlen() * MEMBER_WORDS)?;
        Some(Composite {
            members,
            has_bit_fields: header.has_bit_fields(),
        })
    }

    fn header(&self, at: usize) -> Option<TypeHeader> {
        let &[name, info, size_or_type] = self.words.get(at..)?.first_chunk::<TYPE_WORDS>()?;
        let [name, info, size_or_type] = [name, info, size_or_type].map(u32::from_ne_bytes);
        Some(TypeHeader {
            name,
            info,
            size_or_type,
        })
    }

    /// Whether the string at `offset` is `name`.
    fn is_named(&self, offset: u32, name: &str) -> bool {
        let text = self
            .strings
            .get(offset as usize..)
            .and_then(|rest| rest.strip_prefix(name.as_bytes()));
        text.is_some_and(|rest| rest.first() == Some(&0))
    }
}

impl Composite<'_> {
    fn members(&self) -> impl Iterator<Item = Member> {
        let (members, _) = self.members.as_chunks::<MEMBER_WORDS>();
        members.iter().map(|member| {
            let [name, type_id, offset] = member.map(u32::from_ne_bytes);
            let bit_offset = if self.has_bit_fields {
                offset & 0x00ff_ffff
            } else {
                offset
            };
            Member {
                name,
                type_id,
                bit_offset,
            }
        })
    }
}

/// The type section and the string section.
fn sections(bytes: &[u8]) -> Result<(&[u8], &[u8]), BtfError> {
    let header = bytes.first_chunk::<HEADER_LEN>().ok_or(BtfError::Header)?;
    let (words, _) = header.as_chunks::<4>();
    let &[
        [m0, m1, version, _],
        header_len,
        types,
        types_len,
        strings,
        strings_len,
    ] = words
    else {
        return Err(BtfError::Header);
    };
    if u16::from_ne_bytes([m0, m1]) != MAGIC || version != VERSION {
        return Err(BtfError::Header);
    }
    let [header_len, types, types_len, strings, strings_len] =
        [header_len, types, types_len, strings, strings_len].map(|word| u32::from_ne_bytes(word) as usize);
    // Offsets count from the end of the header, which may be longer than this version of it.
    let body = bytes.get(header_len..).ok_or(BtfError::Truncated)?;
    let section = |offset: usize, len: usize| body.get(offset..)?.get(..len);
    section(types, types_len)
        .zip(section(strings, strings_len))
        .ok_or(BtfError::Truncated)
}

#[cfg(test)]
mod tests;
