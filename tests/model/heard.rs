//! What the observer of the model's files hears, and which of them it follows.

use belljar::vfs::observer::{FileKey, Location, Tracking, WriteObserver, Writer};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

/// Mount point and path below it.
pub type At = (String, PathBuf);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Dirtied { file: u64, at: At },
    Closed { file: u64, changed: bool },
    Named { file: u64, from: Option<At>, to: At, open: bool },
    Moved { from: At, to: At },
    Removed { at: At },
}

/// Follows every file that it hears of until it is settled.
#[derive(Default)]
pub struct Heard {
    events: Mutex<Vec<Event>>,
    following: Mutex<BTreeSet<u64>>,
}

fn at(location: &Location) -> At {
    (location.mount.to_string(), location.path.as_path().to_owned())
}

impl Heard {
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    pub fn following(&self) -> Vec<u64> {
        self.following.lock().unwrap().iter().copied().collect()
    }

    /// To be called before the file system is told that the file is settled.
    pub fn settle(&self, file: u64) {
        assert!(self.following.lock().unwrap().remove(&file), "{file} was followed");
    }

    fn hear(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    fn follow(&self, file: u64) -> Tracking {
        let began = self.following.lock().unwrap().insert(file);
        if began { Tracking::Began } else { Tracking::Continues }
    }
}

impl WriteObserver for Heard {
    fn dirtied(&self, file: FileKey, location: &Location, _: Writer) -> io::Result<Tracking> {
        self.hear(Event::Dirtied { file: file.0, at: at(location) });
        Ok(self.follow(file.0))
    }

    fn closed(&self, file: FileKey, changed: bool) {
        self.hear(Event::Closed { file: file.0, changed });
    }

    fn named(
        &self,
        file: FileKey,
        from: Option<&Location>,
        to: &Location,
        _: Writer,
        open: bool,
    ) -> Tracking {
        self.hear(Event::Named { file: file.0, from: from.map(at), to: at(to), open });
        self.follow(file.0)
    }

    fn directory_moved(&self, from: &Location, to: &Location, _: Writer) {
        self.hear(Event::Moved { from: at(from), to: at(to) });
    }

    fn removed(&self, location: &Location) {
        self.hear(Event::Removed { at: at(location) });
    }
}
