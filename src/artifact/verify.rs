//! Verification: whether the rows and the contents of the store agree, in both directions, and mending what does not.
//!
//! It is done in parts of some seconds, each from a cursor to the next, so that nobody waits for a store to be read as a whole
//! and whoever asked ends it by not asking on. The first parts read every content that versions name, in the order of digests; the
//! next look at every name in the store, the last at what the remote store says that it has. A content of the remote store is not
//! read. What may be on its way at that moment is left alone: contents that were just taken, and
//! those whose place is to be looked at anyway.

mod remote;

use super::error::Error;
use super::instance;
use super::locate::act_as;
use super::reference::resolve;
use super::service::Service;
use super::{Artifacts, Voice};
use crate::model::artifact::Author;
use crate::model::digest::Digest;
use crate::model::path::escape;
use crate::storage::{
    ContentCopy, NamedContent, Placed, StoreEntry, StorePart, Tier, VersionRow, Wanted,
};
use crate::sys::openat2::open_beneath;
use crate::wire::verify::{Finding, FindingKind, VerifyReport, VerifyRequest};
use jiff::Timestamp;
use nix::fcntl::OFlag;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long one part takes, plus one content.
const PART: Duration = Duration::from_secs(2);

/// Reading faster would leave a slow disk to nobody else. Chosen, not measured.
const BYTES_PER_SECOND: u64 = 256 << 20;
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

const BUFFER_BYTES: usize = 256 << 10;

/// Contents that are asked for at once.
const PAGE: u32 = 256;

/// Versions that a finding names, and that a content is sought at.
const VERSIONS_SHOWN: u32 = 16;

/// Parts of the store: each first byte of a digest in both tiers, and the rest.
const STORE_PARTS: u16 = 513;

/// Where the part before ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cursor {
    /// Contents behind this one.
    Contents(Option<Digest>),
    /// From this part of the store on.
    Store(u16),
    /// From the digests with this first byte on in the remote store.
    Remote(u8),
}

impl Cursor {
    fn parse(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadQuery {
            why: "the cursor is not one that a part of a verification ended with".to_owned(),
        };
        if let Some(hex) = text.strip_prefix("c-") {
            let digest = format!("blake3:{hex}").parse().map_err(|_| bad())?;
            return Ok(Self::Contents(Some(digest)));
        }
        if let Some(part) = text.strip_prefix("r-").and_then(|part| part.parse().ok()) {
            return Ok(Self::Remote(part));
        }
        let part = text.strip_prefix("s-").and_then(|part| part.parse().ok());
        part.filter(|part| *part < STORE_PARTS).map(Self::Store).ok_or_else(bad)
    }

    fn text(self) -> Option<String> {
        match self {
            Cursor::Contents(after) => after.map(|after| format!("c-{}", after.hex())),
            Cursor::Store(part) => Some(format!("s-{part}")),
            Cursor::Remote(part) => Some(format!("r-{part}")),
        }
    }
}

fn part_of(number: u16) -> StorePart {
    match u8::try_from(number % 256) {
        Ok(first) if number < 256 => StorePart::Contents(Tier::Main, first),
        Ok(first) if number < 512 => StorePart::Contents(Tier::Archive, first),
        Ok(_) | Err(_) => StorePart::Rest,
    }
}

/// One part under way.
struct Verification<'a> {
    service: &'a Service,
    owner: Option<u32>,
    /// What the remote store has is looked at as a whole, in parts of its own.
    whole: bool,
    repair: bool,
    rate: u64,
    began: Instant,
    report: VerifyReport,
}

/// How a copy reads.
enum Reading {
    Whole,
    Wrong(String),
    /// The daemon stops.
    Interrupted,
}

impl Artifacts {
    /// Verifies a part. `whole`: everyone's contents, and the store itself; else those that the voice's own versions name.
    pub fn verify(
        &self,
        voice: &Voice,
        whole: bool,
        request: &VerifyRequest,
    ) -> Result<VerifyReport, Error> {
        let rate = request.bytes_per_second.unwrap_or(BYTES_PER_SECOND);
        if rate < BYTES_PER_SECOND_MIN {
            let why = format!("bytes_per_second is {rate}: use at least {BYTES_PER_SECOND_MIN}");
            return Err(Error::BadRequest { why });
        }
        let owner = if whole { None } else { voice.owner };
        let service = self.service();
        let mut part = Verification {
            service,
            owner,
            whole: whole && request.reference.is_none(),
            repair: request.repair,
            rate,
            began: Instant::now(),
            report: VerifyReport::default(),
        };
        if let Some(reference) = &request.reference {
            part.one(voice.owner, reference)?;
            return Ok(part.report);
        }
        let mut cursor = match &request.cursor {
            Some(text) => Cursor::parse(text)?,
            None => {
                part.report.lost = service.catalog.retention().lost(owner)?;
                Cursor::Contents(None)
            }
        };
        loop {
            let next = match cursor {
                Cursor::Contents(after) => {
                    part.contents(after)?.or(whole.then_some(Cursor::Store(0)))
                }
                Cursor::Store(number) => {
                    part.store(part_of(number))?;
                    let next = Some(number + 1).filter(|next| *next < STORE_PARTS);
                    let remote = service.upstream.as_ref().map(|_| Cursor::Remote(0));
                    next.map(Cursor::Store).or(remote)
                }
                Cursor::Remote(first) => {
                    part.remote(first)?;
                    first.checked_add(1).map(Cursor::Remote)
                }
            };
            let Some(next) = next else { return Ok(part.report) };
            cursor = next;
            if part.is_over() {
                part.report.next = cursor.text();
                return Ok(part.report);
            }
        }
    }
}

impl Verification<'_> {
    fn is_over(&self) -> bool {
        self.service.is_stopping() || self.began.elapsed() >= PART
    }

    /// Every version of an artifact, or the one that is named.
    fn one(&mut self, owner: Option<u32>, reference: &str) -> Result<(), Error> {
        let catalog = &*self.service.catalog;
        let (id, which) = resolve(catalog, owner, reference)?;
        let rows = match which {
            None => catalog.life().versions(owner, id, None, u32::MAX)?,
            Some(which) => catalog.find(owner, id, which)?.into_iter().collect(),
        };
        if rows.is_empty() {
            return Err(Error::NotFound { reference: reference.to_owned() });
        }
        self.report.lost = rows.iter().filter(|row| row.lost_at.is_some()).count() as u64;
        let kept = rows.iter().filter(|row| row.content_kept && row.swept_at.is_none());
        let mut digests: Vec<Digest> = kept.filter_map(|row| row.digest).collect();
        digests.sort();
        digests.dedup();
        for digest in digests {
            self.content(&digest)?;
        }
        Ok(())
    }

    /// Reads contents from a place on until the time is over; nothing behind the last.
    fn contents(&mut self, mut after: Option<Digest>) -> Result<Option<Cursor>, Error> {
        let catalog = self.service.catalog.retention();
        loop {
            let page = catalog.named_contents(self.owner, after, PAGE)?;
            if page.is_empty() {
                return Ok(None);
            }
            for named in page {
                if !self.content(&named.digest)? {
                    return Ok(Some(Cursor::Contents(after)));
                }
                after = Some(named.digest);
                if self.is_over() {
                    return Ok(Some(Cursor::Contents(after)));
                }
            }
        }
    }

    fn wanted(&self, digest: &Digest) -> Result<Wanted, Error> {
        Ok(self.service.catalog.life().wanted(digest)?)
    }

    /// Whether the content was looked at to its end.
    fn content(&mut self, digest: &Digest) -> Result<bool, Error> {
        let service = self.service;
        let (mut whole, mut wrong) = (Vec::new(), Vec::new());
        for ContentCopy { tier, file } in service.blobs.copies(digest)? {
            match self.read(file, digest) {
                Reading::Whole => whole.push(tier),
                Reading::Wrong(why) => wrong.push((tier, why)),
                Reading::Interrupted => return Ok(false),
            }
        }
        self.report.contents += 1;
        let versions = self.named_by(digest)?;
        if versions.is_empty() {
            // It was given up while it was read.
            return Ok(true);
        }
        if whole.is_empty() && wrong.is_empty() && service.blobs.copies(digest)?.is_empty() {
            let Err(detail) = self.elsewhere(digest)? else { return Ok(true) };
            self.mend_lost(FindingKind::Missing, digest, versions, detail, None)?;
            return Ok(true);
        }
        if !wrong.is_empty() {
            self.damaged(digest, versions, &whole, &wrong)?;
            return Ok(true);
        }
        // Twice, because it may be on its way between the tiers.
        if self.is_misplaced(digest)? && self.is_misplaced(digest)? {
            let mut finding = Finding {
                kind: FindingKind::Misplaced,
                digest: Some(*digest),
                versions,
                detail: "it is not in the tier that its versions want".to_owned(),
                repaired: None,
                mended: false,
            };
            if self.repair {
                self.place(digest)?;
                finding.repaired = Some("it was put where it belongs".to_owned());
                finding.mended = true;
            }
            self.report.findings.push(finding);
        }
        Ok(true)
    }

    fn is_misplaced(&self, digest: &Digest) -> Result<bool, Error> {
        let wanted = self.wanted(digest)?;
        let copies = self.service.blobs.copies(digest)?;
        let is_in = |tier| copies.iter().any(|copy| copy.tier == tier);
        let missing = wanted.main && !is_in(Tier::Main) || wanted.archive && !is_in(Tier::Archive);
        Ok(missing && !self.service.catalog.retention().awaits_placement(digest)?)
    }

    fn damaged(
        &mut self,
        digest: &Digest,
        versions: Vec<String>,
        whole: &[Tier],
        wrong: &[(Tier, String)],
    ) -> Result<(), Error> {
        let detail = wrong.iter().map(|(tier, why)| format!("in the {} tier {why}", tier.as_str()));
        let detail = detail.collect::<Vec<_>>().join("; ");
        let mut aside = Vec::new();
        if self.repair {
            for (tier, _) in wrong {
                let path = self.service.blobs.set_aside(digest, *tier)?;
                aside.push(escape(path.as_os_str().as_bytes()));
            }
        }
        let aside =
            Some(format!("the damaged copy is {}", aside.join(", "))).filter(|_| self.repair);
        if whole.is_empty() || !self.repair {
            return self.mend_lost(FindingKind::Damaged, digest, versions, detail, aside);
        }
        self.place(digest)?;
        self.service.catalog.retention().tell_mended(digest, "other-tier", &Author::Belljar)?;
        let aside = aside.unwrap_or_default();
        self.report.findings.push(Finding {
            kind: FindingKind::Damaged,
            digest: Some(*digest),
            versions,
            detail,
            repaired: Some(format!("{aside}; it was put back from the other tier")),
            mended: true,
        });
        Ok(())
    }

    /// There is no whole copy: takes it again from the remote store or the file, or notes that it is lost.
    fn mend_lost(
        &mut self,
        kind: FindingKind,
        digest: &Digest,
        versions: Vec<String>,
        detail: String,
        aside: Option<String>,
    ) -> Result<(), Error> {
        let (mut done, mut mended) = (aside, false);
        if self.repair {
            let refetched = self.refetch(digest)?;
            let retaken = if refetched.is_some() { None } else { self.retake(digest)? };
            let how = match (refetched, retaken) {
                (Some(store), _) => {
                    mended = true;
                    let catalog = self.service.catalog.retention();
                    catalog.tell_mended(digest, "remote", &Author::Belljar)?;
                    format!("it was fetched from {store}")
                }
                (None, Some(path)) => {
                    mended = true;
                    let catalog = self.service.catalog.retention();
                    catalog.tell_mended(digest, "file", &Author::Belljar)?;
                    format!("it was taken again from {path}")
                }
                (None, None) if self.others_may_have_it()? => {
                    "nothing was done: another node may have it, which `belljar artifact verify` there tells".to_owned()
                }
                (None, None) => {
                    let blobs = &*self.service.blobs;
                    let gone = || blobs.copies(digest).is_ok_and(|copies| copies.is_empty());
                    let catalog = self.service.catalog.retention();
                    let count = catalog.lose(digest, &gone, &Author::Belljar)?;
                    format!("{count} versions say from here on that their content is lost")
                }
            };
            done = Some(done.map_or(how.clone(), |aside| format!("{aside}; {how}")));
        }
        let digest = Some(*digest);
        let finding = Finding { kind, digest, versions, detail, repaired: done, mended };
        self.report.findings.push(finding);
        Ok(())
    }

    fn place(&self, digest: &Digest) -> Result<Placed, Error> {
        let catalog = &self.service.catalog;
        Ok(self.service.blobs.place(digest, &|| catalog.life().wanted(digest))?)
    }

    /// The file from which the content could be taken again.
    fn retake(&mut self, digest: &Digest) -> Result<Option<String>, Error> {
        let rows = self.service.catalog.retention().naming(None, digest, VERSIONS_SHOWN)?;
        for row in rows {
            let Ok(Some(mut file)) = open_host_file(&row) else { continue };
            let mut batch = self.service.blobs.begin()?;
            let mut writer = batch.writer()?;
            let mut hasher = blake3::Hasher::new();
            let mut buffer = vec![0; BUFFER_BYTES];
            let mut left = row.size;
            let copied = loop {
                match file.read(&mut buffer) {
                    Ok(0) => break left == 0,
                    Ok(read) if read as u64 > left => break false,
                    Ok(read) => {
                        left -= read as u64;
                        hasher.update(&buffer[..read]);
                        self.pace(read as u64);
                        let written = writer.write_all(&buffer[..read]);
                        written.map_err(|source| Error::State {
                            doing: "take a content again from",
                            path: Path::new(OsStr::from_bytes(&row.host_path)).to_owned(),
                            source,
                        })?;
                    }
                    Err(_) => break false,
                }
            };
            if copied && Digest::from_bytes(*hasher.finalize().as_bytes()) == *digest {
                writer.keep(digest)?;
                batch.commit()?;
                self.place(digest)?;
                if let Some(upstream) = &self.service.upstream {
                    let content = NamedContent { digest: *digest, size: row.size };
                    let uploads = self.service.catalog.uploads();
                    uploads.queue(&upstream.destination, &[content], Timestamp::now())?;
                    upstream.bell.ring();
                }
                return Ok(Some(escape(&row.host_path)));
            }
        }
        Ok(None)
    }

    fn read(&mut self, mut file: File, digest: &Digest) -> Reading {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if self.service.is_stopping() {
                return Reading::Interrupted;
            }
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    hasher.update(&buffer[..read]);
                    self.pace(read as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Reading::Wrong(format!("it cannot be read: {error}")),
            }
        }
        let found = Digest::from_bytes(*hasher.finalize().as_bytes());
        if found == *digest {
            return Reading::Whole;
        }
        Reading::Wrong(format!("its bytes have the digest {found}"))
    }

    /// Waits until reading so much was due.
    fn pace(&mut self, bytes: u64) {
        self.report.bytes += bytes;
        let due = Duration::from_secs_f64(self.report.bytes as f64 / self.rate as f64);
        let early = due.saturating_sub(self.began.elapsed());
        // A pause shorter than that is longer than it says.
        if early > Duration::from_millis(2) {
            std::thread::sleep(early);
        }
    }

    fn named_by(&self, digest: &Digest) -> Result<Vec<String>, Error> {
        let catalog = self.service.catalog.retention();
        let rows = catalog.naming(self.owner, digest, VERSIONS_SHOWN)?;
        let shown =
            |row: VersionRow| format!("{}@{} {}", row.id, row.number, escape(&row.host_path));
        Ok(rows.into_iter().map(shown).collect())
    }

    /// Looks at the names of one part of the store.
    fn store(&mut self, part: StorePart) -> Result<(), Error> {
        let mut entries = Vec::new();
        self.service.blobs.survey(part, &mut |entry| entries.push(entry))?;
        self.report.files += entries.len() as u64;
        for entry in entries {
            self.entry(entry)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: StoreEntry) -> Result<(), Error> {
        match entry {
            StoreEntry::Content { young: true, .. }
            | StoreEntry::Aside { young: true, .. }
            | StoreEntry::Partial { young: true, .. } => Ok(()),
            StoreEntry::Content { digest, tier, young: false } => self.orphan(&digest, tier),
            StoreEntry::Aside { digest, young: false } => {
                if self.service.catalog.retention().awaits_placement(&digest)? {
                    return Ok(());
                }
                let detail = "it was being removed by a daemon that died".to_owned();
                self.found(FindingKind::Leftover, detail, Mend::Place(digest))
            }
            StoreEntry::Partial { path, young: false } => {
                let detail = format!("half-copied: {}", shown_path(&path));
                self.found(FindingKind::Leftover, detail, Mend::Discard(path))
            }
            StoreEntry::Temporary { path, instance } => {
                let state_dir = &self.service.settings.state_dir;
                let alive = instance::is_alive(state_dir, instance);
                if alive.map_err(super::state_error("look for daemons in", state_dir))? {
                    return Ok(());
                }
                let shown = shown_path(&path);
                let detail = format!("half-written by daemon {instance}, which is dead: {shown}");
                self.found(FindingKind::Leftover, detail, Mend::Discard(path))
            }
            StoreEntry::Foreign { path } => {
                let detail = format!("the store did not make {}", shown_path(&path));
                self.found(FindingKind::Foreign, detail, Mend::Never)
            }
        }
    }

    fn orphan(&mut self, digest: &Digest, tier: Tier) -> Result<(), Error> {
        let Wanted { main, archive, undo } = self.wanted(digest)?;
        if main || archive || undo || self.service.catalog.retention().awaits_placement(digest)? {
            return Ok(());
        }
        let detail = format!("no version names this content of the {} tier", tier.as_str());
        self.found(FindingKind::Orphan, detail, Mend::Place(*digest))
    }

    /// Reports what stands in the store and should not, and removes it where that is asked for.
    fn found(&mut self, kind: FindingKind, detail: String, mend: Mend) -> Result<(), Error> {
        let digest = match &mend {
            Mend::Place(digest) => Some(*digest),
            Mend::Discard(_) | Mend::Never => None,
        };
        let removed = match mend {
            Mend::Place(digest) if self.repair => self.place(&digest)? == Placed::Done,
            Mend::Discard(path) if self.repair => {
                self.service.blobs.discard(&path)?;
                true
            }
            Mend::Place(_) | Mend::Discard(_) | Mend::Never => false,
        };
        self.report.findings.push(Finding {
            kind,
            digest,
            versions: Vec::new(),
            detail,
            repaired: removed.then(|| "it was removed".to_owned()),
            mended: removed,
        });
        Ok(())
    }
}

/// How something goes that should not be in the store.
enum Mend {
    /// By putting the content where its versions want it: nowhere.
    Place(Digest),
    Discard(PathBuf),
    /// It is not ours.
    Never,
}

fn shown_path(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// The file at a version's path, as its owner may read it, where it still has the size. No link is followed, and nothing is
/// opened before it is known to be a regular file.
fn open_host_file(row: &VersionRow) -> io::Result<Option<File>> {
    let root = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open("/")?;
    let path = Path::new(OsStr::from_bytes(&row.host_path));
    let Ok(below) = path.strip_prefix("/") else { return Ok(None) };
    let handle = File::from(open_beneath(&root, below, OFlag::O_PATH | OFlag::O_NOFOLLOW)?);
    let metadata = handle.metadata()?;
    if !metadata.is_file() || metadata.size() != row.size {
        return Ok(None);
    }
    let _identity = act_as(row.owner_uid)?;
    File::open(format!("/proc/self/fd/{}", handle.as_raw_fd())).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_others_are_refused() {
        let contents = Cursor::Contents(Some(Digest::from_bytes([7; 32])));
        for cursor in [contents, Cursor::Store(512), Cursor::Remote(255)] {
            assert_eq!(Cursor::parse(&cursor.text().expect("text")).expect("legal"), cursor);
        }
        for text in ["", "c-", "c-00", "s-513", "s--1", "r-256", "x"] {
            assert!(Cursor::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_part_of_the_store_is_looked_at() {
        assert_eq!(part_of(0), StorePart::Contents(Tier::Main, 0));
        assert_eq!(part_of(255), StorePart::Contents(Tier::Main, 255));
        assert_eq!(part_of(256), StorePart::Contents(Tier::Archive, 0));
        assert_eq!(part_of(511), StorePart::Contents(Tier::Archive, 255));
        assert_eq!(part_of(512), StorePart::Rest);
    }
}
