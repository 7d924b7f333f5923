//! How the C library's allocator gets large blocks from the kernel (mallopt(3)).

/// Blocks of this size and more are mapped one by one. The allocator's own start value.
const MAPPED_FROM_BYTES: libc::c_int = 128 * 1024;

/// Keeps large blocks out of the heap, whatever was freed before.
///
/// Every thread that serves FUSE has a buffer of 16 MiB, of which it touches a few pages. The allocator learns from the
/// first such block that is freed to take the next ones from its heap, and then clears each from end to end: measured
/// as 20 ms and 48 MiB of memory for every workspace after the first. A threshold that is set is not learned.
pub fn map_large_blocks() {
    // SAFETY: mallopt takes integers and changes a setting of the allocator, which locks itself.
    let accepted = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES) };
    debug_assert_eq!(accepted, 1, "the threshold is below the allocator's maximum");
}
