//! Room for a gradient.

use std::mem::size_of;

/// Room for `len` numbers.
///
/// A large one is fresh memory, and the first touch of each of its pages is a trap into the system, which for 4 kB
/// pages costs more than all the arithmetic. So the system is asked for large pages, where that is up to programs
/// (Linux' `madvise` mode); it is a hint, and nothing depends on it.
#[allow(unsafe_code)]
pub(super) fn room<T>(len: usize) -> Vec<T> {
    let room: Vec<T> = Vec::with_capacity(len);
    #[cfg(target_os = "linux")]
    {
        const LARGE_PAGE: usize = 2 << 20;
        let start = room.as_ptr().cast::<u8>();
        let skip = start.align_offset(LARGE_PAGE);
        let whole = (len * size_of::<T>()).saturating_sub(skip) / LARGE_PAGE * LARGE_PAGE;
        if whole >= 2 * LARGE_PAGE {
            // SAFETY: the pages lie within the allocation, and the advice changes none of their contents.
            unsafe {
                libc::madvise(
                    start.add(skip).cast_mut().cast(),
                    whole,
                    libc::MADV_HUGEPAGE,
                );
            }
        }
    }
    room
}
