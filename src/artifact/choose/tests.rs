//! The planner against a model that decides each limit anew from the definition.

use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const NOW: i64 = 1_000_000;

fn digest(number: u8) -> Digest {
    Digest::from_bytes([number; 32])
}

fn member() -> impl Strategy<Value = Member> {
    let state = prop_oneof![
        4 => Just(ArtifactState::Ready),
        2 => Just(ArtifactState::Archived),
        1 => Just(ArtifactState::Creating)
    ];
    let content = option::weighted(0.9, 0..6u8);
    (state, 0..1_000i64, 0..1_000i64, content, prop::bool::weighted(0.15)).prop_map(
        |(state, made, archived, content, pinned)| Member {
            number: 0,
            state,
            made_at: NOW - made,
            archived_at: (state == ArtifactState::Archived).then_some(NOW - archived),
            // Identical bytes have one size.
            content: content.map(|number| (digest(number), u64::from(number) * 10)),
            protected: pinned || state == ArtifactState::Creating,
        },
    )
}

fn units() -> impl Strategy<Value = Vec<Unit>> {
    let unit = vec(member(), 1..4).prop_map(|mut members| {
        members.sort_by_key(|member| -member.made_at);
        for (number, member) in (1..).zip(members.iter_mut().rev()) {
            member.number = number;
        }
        Unit { members }
    });
    vec(unit, 0..12)
}

fn criteria() -> impl Strategy<Value = Criteria> {
    let limits = (
        option::of(0..1_000u64),
        option::of(0..8u64),
        option::of(0..200u64),
        option::of(1..4u64),
        any::<bool>(),
        option::of(0..1_000u64),
    );
    limits.prop_map(|(older, most, size, versions, archive_first, archived_for)| Criteria {
        older_than_ms: older,
        max_artifacts: most,
        max_size: size,
        keep_versions: versions,
        archive_first,
        archived_for_ms: archived_for.filter(|_| archive_first),
        ..Criteria::default()
    })
}

/// Positions of what goes, before it is asked what happens to it.
fn expected(units: &[Unit], asked: &Criteria) -> std::collections::BTreeSet<(usize, usize)> {
    let mut left: Vec<Vec<usize>> =
        units.iter().map(|unit| (0..unit.members.len()).collect()).collect();
    if let Some(kept) = asked.keep_versions {
        for (unit, left) in units.iter().zip(&mut left) {
            left.retain(|&at| at < kept as usize || unit.members[at].protected);
        }
    }
    let free = |unit: &Unit| !unit.members.iter().any(|member| member.protected);
    // The oldest of those that are there and may go, by its newest version.
    let oldest = |left: &[Vec<usize>]| {
        let there = (0..units.len()).filter(|&at| !left[at].is_empty() && free(&units[at]));
        there.min_by_key(|&at| (units[at].members[0].made_at, at))
    };
    let size = |left: &[Vec<usize>]| {
        let members = left.iter().zip(units);
        let contents =
            members.flat_map(|(left, unit)| left.iter().filter_map(|&at| unit.members[at].content));
        contents.collect::<HashMap<_, _>>().values().sum::<u64>()
    };
    let no_limit = !asked.has_limit();
    while let Some(at) = oldest(&left) {
        let age = (NOW - units[at].members[0].made_at) as u64;
        if no_limit || asked.older_than_ms.is_some_and(|most| age > most) {
            left[at].clear();
        } else {
            break;
        }
    }
    while let (Some(most), Some(at)) = (asked.max_artifacts, oldest(&left)) {
        if left.iter().filter(|left| !left.is_empty()).count() as u64 <= most {
            break;
        }
        left[at].clear();
    }
    while let (Some(most), Some(at)) = (asked.max_size, oldest(&left)) {
        if size(&left) <= most {
            break;
        }
        left[at].clear();
    }
    let all = units.iter().enumerate();
    let all = all.flat_map(|(unit, of)| (0..of.members.len()).map(move |member| (unit, member)));
    all.filter(|&(unit, member)| !left[unit].contains(&member)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_planner_takes_what_the_model_takes(units in units(), asked in criteria()) {
        let goes = expected(&units, &asked);
        let chosen = choose(&units, &asked, NOW);
        let stay = asked.archived_for_ms.unwrap_or(ARCHIVED_FOR_MS_DEFAULT);
        let mut wanted = Vec::new();
        for &(unit, member) in &goes {
            let found = &units[unit].members[member];
            prop_assert!(!found.protected);
            let action = match (asked.archive_first, found.archived_at) {
                (false, _) => Some(Action::Delete),
                (true, None) => Some(Action::Archive),
                (true, Some(at)) => ((NOW - at) as u64 > stay).then_some(Action::Delete),
            };
            wanted.extend(action.map(|action| (unit, member, action)));
        }
        let mut found: Vec<_> =
            chosen.iter().map(|choice| (choice.unit, choice.member, choice.action)).collect();
        found.sort_by_key(|&(unit, member, _)| (unit, member));
        prop_assert_eq!(found, wanted);
        prop_assert!(chosen.iter().all(|choice| !choice.reason.is_empty()));
        let ages: Vec<_> = chosen.iter().map(|choice| units[choice.unit].made_at()).collect();
        prop_assert!(ages.is_sorted(), "the oldest come first");
    }
}
