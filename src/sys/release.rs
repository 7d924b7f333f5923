//! Closing descriptors without waiting for it.

/// Drops `left` on a thread of its own. Closing a file can wait for its file system without end: FUSE asks the server
/// (FLUSH, fs/fuse/file.c), network file systems write back. For descriptors that somebody else chose, where the thread
/// that happens to own them last serves others.
pub fn elsewhere<T: Send + 'static>(left: T) {
    let closing = std::thread::Builder::new().name("close-files".to_owned());
    // Without a thread they are closed here, with the closure.
    let _ = closing.spawn(move || drop(left));
}
