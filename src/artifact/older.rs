//! Names that a followed file got before its last one, and may still have.
//!
//! While its file system lives that one knows them; these are for when it is gone. A name is a hint: what has it is looked at
//! before it is believed. At most [`OLDER_MAX`], of which the oldest stays, as in `vfs`.

use super::record::Place;

/// With the last name eight, as many as the file system remembers.
const OLDER_MAX: usize = 7;

/// Oldest first.
#[derive(Debug, Default)]
pub(super) struct Older(Vec<Place>);

impl Older {
    pub fn push(&mut self, place: Place) {
        self.remove(&place);
        if self.0.len() >= OLDER_MAX {
            self.0.remove(1);
        }
        self.0.push(place);
    }

    pub fn remove(&mut self, place: &Place) {
        self.0.retain(|other| other != place);
    }

    pub fn pop(&mut self) -> Option<Place> {
        self.0.pop()
    }

    pub fn contains(&self, place: &Place) -> bool {
        self.0.contains(place)
    }

    pub fn as_slice(&self) -> &[Place] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::VirtualPath;

    #[test]
    fn the_oldest_name_stays_and_a_name_counts_once() {
        let place =
            |n: usize| Place { mount: 0, path: VirtualPath::parse(format!("{n}")).expect("path") };
        let mut older = Older::default();
        for n in 0..20 {
            older.push(place(n));
            older.push(place(n));
        }
        let expected: Vec<Place> = [0, 14, 15, 16, 17, 18, 19].map(place).into();
        assert_eq!(older.as_slice(), expected);
        older.remove(&place(0));
        older.push(place(14));
        assert_eq!(older.as_slice().first(), Some(&place(15)));
        assert_eq!(older.pop(), Some(place(14)));
    }
}
