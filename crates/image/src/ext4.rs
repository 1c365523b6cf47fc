//! ext4 file systems, written straight to a file: no root, no mount, no `mkfs`.
//!
//! `tree` is what a file system will contain, in little memory. `writer` makes it a file: content goes to its final
//! blocks as it comes, and all that depends on the whole (directories, inode tables, bitmaps, group descriptors,
//! superblock) is written behind it at the end, in few large writes. The other modules are the structures on the disk.
//! Nothing here knows of tars, layers or paths.
//!
//! ```text
//! block 0      1 …            …            …            …               …        end
//! superblock | descriptors | (reserve) | content … | directories | inodes | bitmaps
//! ```

/// A type of flags that are combined with `|` at compile time.
macro_rules! bits {
    ($(#[$meta:meta])* $name:ident: $repr:ty { $($flag:ident = $value:expr,)* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name(pub $repr);

        impl $name {
            $(pub const $flag: Self = Self($value);)*

            /// The flags of `self` and of `other`.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }
    };
}

mod attribute;
pub(crate) mod checksum;
pub(crate) mod children;
pub(crate) mod directory;
pub(crate) mod extent;
mod hash;
pub(crate) mod inode;
pub mod inspect;
mod stream;
pub(crate) mod superblock;
pub mod tree;
mod writer;

pub use attribute::{AttributeError, AttributeSet};
pub use extent::Extent;
pub use stream::FillError;
pub use superblock::Features;
pub use writer::{Error, IMAGE_FEATURES, Segment, Writer, Written};

/// The size of a block.
pub const BLOCK: usize = 4096;
/// The root directory's inode.
pub const ROOT_INODE: u32 = 2;
/// The first inode that is not reserved.
pub const FIRST_INODE: u32 = 11;
/// The most blocks and the most inodes of a group: what one block of bitmap can hold.
pub const GROUP: u32 = BLOCK as u32 * 8;

/// The blocks that `bytes` bytes take.
pub(crate) const fn blocks_of(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK as u64)
}
