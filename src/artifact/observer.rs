//! Hears of writes and notes them: the journal's end of [`WriteObserver`].
//!
//! These calls are made on threads that serve the kernel. Each costs at most one write(2) to the journal and the lookup
//! of a few maps; what the registrar does with a file never holds a lock that is taken here across I/O of its own,
//! except for its acknowledgements, which are one write(2) as well.

use super::inputs::Reader;
use super::record::{FileRef, Place, Record};
use super::secrets::mask_command;
use super::service::Service;
use crate::model::id::{MountName, RunId};
use crate::storage::Process;
use crate::vfs::observer::{
    FileKey, Location, Opening, ReadStamp, Tracking, WriteObserver, Writer,
};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Observer {
    service: Arc<Service>,
    /// The workspace's number in the journal.
    number: u32,
    /// Position of each mount point whose files are artifacts.
    mounts: HashMap<MountName, u16>,
    /// Where every mount point is, for what is read.
    reader: Reader,
}

impl Observer {
    pub fn new(service: Arc<Service>, mounts: HashMap<MountName, u16>, reader: Reader) -> Self {
        Self { service, number: reader.workspace, mounts, reader }
    }

    fn file(&self, file: FileKey) -> FileRef {
        FileRef { workspace: self.number, file }
    }

    fn apply(&self, records: &[Record]) {
        self.service.change(|state| {
            let now = Instant::now();
            for record in records {
                state.apply(record, now);
            }
        });
    }

    fn place(&self, at: &Location) -> Option<Place> {
        let mount = *self.mounts.get(&at.mount)?;
        Some(Place { mount, path: at.path.clone() })
    }
}

impl Observer {
    /// Who writes, as it is noted; nothing where no process can be named. The command line is masked before the journal,
    /// which is a file, has it; where the workspace's secrets are not known, neither is the command.
    fn process(&self, writer: &Writer) -> Option<Process> {
        let masker = self.service.masker(self.number);
        let command = masker.and_then(|masker| mask_command(&masker, writer.command.clone()));
        (writer.pid != 0).then_some(Process { pid: writer.pid, uid: writer.uid, command })
    }
}

impl WriteObserver for Observer {
    fn dirtied(&self, file: FileKey, at: &Location, writer: Writer) -> io::Result<Tracking> {
        let mount = &at.mount;
        let (file, Some(at)) = (self.file(file), self.place(at)) else {
            return Ok(Tracking::Ignored);
        };
        if !self.service.state().follows(file) {
            if self.service.ignores(mount, &at.path) {
                return Ok(Tracking::Ignored);
            }
            // Before the journal's lock: nobody else may have to wait for this.
            self.service.make_room()?;
        }
        let process = self.process(&writer);
        let mut journal = self.service.journal();
        let (follows, written_by) = {
            let mut state = self.service.state();
            (state.follows(file), process.map(|process| state.written_by(file, &process)))
        };
        let dirtied = Record::Dirtied { file, at, run: writer.run, dirtied_at: now_microseconds() };
        let mut records = vec![dirtied];
        records.extend(written_by.into_iter().flatten());
        journal.append(&records)?;
        self.apply(&records);
        self.service.inputs.writing_opened(file, writer.run);
        Ok(if follows { Tracking::Continues } else { Tracking::Began })
    }

    fn closing(&self, file: FileKey) {
        // Not journalled: whoever waits for it waits in this daemon.
        self.service.state().closing(self.file(file), Instant::now());
    }

    fn closed(&self, file: FileKey, changed: bool) {
        let file = self.file(file);
        let mut journal = self.service.journal();
        if self.service.state().follows(file) {
            let record = Record::Closed { file, changed };
            // Without this record recovery takes the file for one that was open at death, which registers it as well.
            journal.append_or_rewrite_later(std::slice::from_ref(&record));
            // Before the state says that the file is due.
            self.service.inputs.writing_closed(file);
            self.service.change(|state| state.apply(&record, Instant::now()));
        }
    }

    fn named(
        &self,
        file: FileKey,
        from: Option<&Location>,
        to: &Location,
        writer: Writer,
        open_for_writing: bool,
    ) -> Tracking {
        let mount = &to.mount;
        let (file, Some(to)) = (self.file(file), self.place(to)) else { return Tracking::Ignored };
        let process = self.process(&writer);
        let mut journal = self.service.journal();
        let follows = self.service.state().follows(file);
        if !follows && self.service.ignores(mount, &to.path) {
            self.service.change(|state| state.removed(self.number, &to, Instant::now()));
            return Tracking::Ignored;
        }
        // A rename cannot be refused, so that the bound on followed files does not hold here; the number of files does.
        let mut records = vec![Record::Named {
            file,
            to,
            run: writer.run,
            open: open_for_writing,
            named_at: now_microseconds(),
        }];
        if let Some(process) = process.filter(|_| !follows) {
            // Who wrote it was not followed; who gave it the name under which it counts is known.
            records.extend(self.service.state().written_by(file, &process));
        }
        journal.append_or_rewrite_later(&records);
        if !follows {
            self.service.inputs.named(file, writer.run);
        }
        self.apply(&records);
        if let Some(from) = from.and_then(|from| self.place(from)) {
            self.service.state().renamed_from(file, &from);
        }
        if follows { Tracking::Continues } else { Tracking::Began }
    }

    fn directory_moved(&self, from: &Location, to: &Location, _writer: Writer) {
        let (Some(from), Some(to)) = (self.place(from), self.place(to)) else { return };
        let mut journal = self.service.journal();
        let record = Record::Moved { workspace: self.number, from, to };
        journal.append_or_rewrite_later(std::slice::from_ref(&record));
        self.service.change(|state| state.apply(&record, Instant::now()));
    }

    fn hears_reads(&self) -> bool {
        self.service.settings.inputs_max > 0
    }

    fn read_opened(
        &self,
        file: FileKey,
        stamp: Option<ReadStamp>,
        run: RunId,
        opening: &dyn Opening,
    ) {
        self.service.inputs.read_opened(&self.reader, self.file(file), stamp, run, opening);
    }

    fn removed(&self, at: &Location) {
        if let Some(at) = self.place(at) {
            self.service.change(|state| state.removed(self.number, &at, Instant::now()));
        }
    }
}

fn now_microseconds() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
