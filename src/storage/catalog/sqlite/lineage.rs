//! Inputs of runs: their rows, and the ways from a version to what it was made from and to what was made from it.

use super::row::{COLUMNS, select};
use super::{integer, sql};
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, RunId};
use crate::model::path::VirtualPath;
use crate::storage::catalog::CatalogError;
use crate::storage::lineage::{Input, InputBounds, InputPlace, MadeFrom, Use, VersionKey};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use std::ffi::OsStr;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const DOING: &str = "read what a version was made from";

pub(super) fn note(transaction: &Transaction, inputs: &[Input]) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT OR IGNORE INTO input (run, number, owner_uid, mount, path, host_path, size, modified_at, digest, reason, opened_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    for input in inputs {
        let place = input.place.as_ref();
        statement.execute(params![
            input.run.as_uuid().as_bytes(),
            integer(input.number),
            input.owner_uid,
            place.map(|place| place.mount.as_str()),
            place.map(|place| place.path.as_bytes()),
            place.map(|place| &place.host_path),
            input.size.map(integer),
            input.modified_at.map(Timestamp::as_microsecond),
            input.digest.as_ref().map(Digest::as_bytes),
            input.reason,
            input.opened_at.as_microsecond(),
        ])?;
    }
    Ok(())
}

/// Notes that the run produced the version, and what it had read by then.
pub(super) fn note_production(
    transaction: &Transaction,
    run: RunId,
    (version, created_at): (i64, i64),
    bounds: Option<InputBounds>,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO produced (run, version, inputs_before, inputs_until, created_at) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (run, created_at, version) DO UPDATE SET \
                 inputs_before = coalesce(max(inputs_before, ?3), inputs_before, ?3), \
                 inputs_until = coalesce(max(inputs_until, ?4), inputs_until, ?4)",
        )?
        .execute(params![
            run.as_uuid().as_bytes(),
            version,
            bounds.map(|bounds| integer(bounds.before)),
            bounds.map(|bounds| integer(bounds.until)),
            created_at,
        ])?;
    Ok(())
}

/// A version, as far as ways from it are concerned.
struct Start {
    pk: i64,
    run: Option<[u8; 16]>,
    owner_uid: u32,
    host_path: Vec<u8>,
    digest: Option<[u8; 32]>,
}

fn start(connection: &Connection, (id, number): VersionKey) -> Result<Option<Start>, CatalogError> {
    let read = |row: &Row<'_>| {
        Ok(Start {
            pk: row.get(0)?,
            run: row.get(1)?,
            owner_uid: row.get(2)?,
            host_path: row.get(3)?,
            digest: row.get(4)?,
        })
    };
    connection
        .prepare_cached(
            "SELECT v.pk, v.run, v.owner_uid, a.host_path, v.digest \
             FROM artifact a JOIN version v ON v.artifact = a.pk WHERE a.id = ? AND v.number = ?",
        )
        .and_then(|mut statement| {
            statement.query_row(params![id.as_uuid().as_bytes(), integer(number)], read).optional()
        })
        .map_err(sql(DOING))
}

pub(super) fn made_from(
    connection: &Connection,
    version: VersionKey,
    limit: u32,
) -> Result<MadeFrom, CatalogError> {
    let Some(start) = start(connection, version)? else { return Ok(MadeFrom::default()) };
    let mut made = MadeFrom::default();
    let mut statement = connection
        .prepare_cached(
            "SELECT run, inputs_before, inputs_until FROM produced WHERE version = ? ORDER BY run LIMIT 100",
        )
        .map_err(sql(DOING))?;
    let mut rows = statement.query([start.pk]).map_err(sql(DOING))?;
    while let Some(row) = rows.next().map_err(sql(DOING))? {
        let run: [u8; 16] = row.get(0).map_err(sql(DOING))?;
        if Some(run) == start.run {
            made.bounds = bounds(row, 1).map_err(sql(DOING))?;
        } else {
            made.also_by.push(run_id(run)?);
        }
    }
    let (Some(run), Some(bounds)) = (start.run, made.bounds) else { return Ok(made) };
    let mut statement = connection
        .prepare_cached(
            "SELECT number, owner_uid, mount, path, host_path, size, modified_at, digest, reason, opened_at, run \
             FROM input WHERE run = ? AND number <= ? ORDER BY number LIMIT ?",
        )
        .map_err(sql(DOING))?;
    let mut rows =
        statement.query(params![run, integer(bounds.until), limit]).map_err(sql(DOING))?;
    while let Some(row) = rows.next().map_err(sql(DOING))? {
        let input = read_input(row)?;
        let version = recognise(connection, &input)?;
        made.inputs.push((input, version));
    }
    Ok(made)
}

pub(super) fn used_by(
    connection: &Connection,
    version: VersionKey,
    limit: u32,
) -> Result<Vec<Use>, CatalogError> {
    let Some(Start { owner_uid, host_path, digest: Some(digest), .. }) =
        start(connection, version)?
    else {
        return Ok(Vec::new());
    };
    // An input that another version has the bytes of as well belongs to the one that was there when it was opened.
    let mut statement = connection
        .prepare_cached(
            "SELECT number, owner_uid, mount, path, host_path, size, modified_at, digest, reason, opened_at, run \
             FROM input WHERE digest = ? AND owner_uid = ? AND host_path = ? ORDER BY run, number LIMIT ?",
        )
        .map_err(sql(DOING))?;
    let mut rows =
        statement.query(params![digest, owner_uid, host_path, limit]).map_err(sql(DOING))?;
    let mut uses: Vec<Use> = Vec::new();
    let text = format!(
        "SELECT {COLUMNS} FROM produced p JOIN version v ON v.pk = p.version JOIN artifact a ON a.pk = v.artifact \
         WHERE p.run = ?1 AND p.inputs_until >= ?2 AND (p.inputs_before >= ?2) = ?3 ORDER BY v.pk LIMIT ?4"
    );
    while let Some(row) = rows.next().map_err(sql(DOING))? {
        let input = read_input(row)?;
        if recognise(connection, &input)? != Some(version) {
            continue;
        }
        for while_open in [false, true] {
            let left = limit.saturating_sub(u32::try_from(uses.len()).unwrap_or(u32::MAX));
            let run = input.run.as_uuid();
            let parameters = params![run.as_bytes(), integer(input.number), !while_open, left];
            for (_, made) in select(connection, DOING, &text, parameters)? {
                let known = |one: &Use| {
                    one.run == input.run
                        && (one.version.id, one.version.number) == (made.id, made.number)
                };
                if !uses.iter().any(known) {
                    uses.push(Use { version: made, run: input.run, while_open });
                }
            }
        }
    }
    Ok(uses)
}

/// The version that an input is: of the same owner, path and bytes, and of several the one that was there when it was opened. A
/// version may be registered a moment after it was read.
fn recognise(connection: &Connection, input: &Input) -> Result<Option<VersionKey>, CatalogError> {
    let (Some(place), Some(digest)) = (&input.place, &input.digest) else { return Ok(None) };
    let found = connection
        .prepare_cached(
            "SELECT a.id, v.number FROM artifact a JOIN version v ON v.artifact = a.pk \
             WHERE a.owner_uid = ?1 AND a.host_path = ?2 AND v.digest = ?3 \
             ORDER BY v.created_at <= ?4 DESC, abs(v.created_at - ?4), v.number DESC LIMIT 1",
        )
        .and_then(|mut statement| {
            let parameters = params![
                input.owner_uid,
                place.host_path,
                digest.as_bytes(),
                input.opened_at.as_microsecond()
            ];
            statement
                .query_row(parameters, |row| {
                    Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, i64>(1)?))
                })
                .optional()
        })
        .map_err(sql(DOING))?;
    found
        .map(|(id, number)| {
            let id: ArtifactId = parse(uuid::Uuid::from_bytes(id).to_string().parse())?;
            Ok((id, number.unsigned_abs()))
        })
        .transpose()
}

fn bounds(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<InputBounds>> {
    let (before, until): (Option<i64>, Option<i64>) = (row.get(first)?, row.get(first + 1)?);
    Ok(before.zip(until).map(|(before, until)| InputBounds {
        before: before.unsigned_abs(),
        until: until.unsigned_abs(),
    }))
}

fn read_input(row: &Row<'_>) -> Result<Input, CatalogError> {
    let get = sql(DOING);
    let place = match (
        row.get::<_, Option<String>>(2).map_err(&get)?,
        row.get::<_, Option<Vec<u8>>>(3).map_err(&get)?,
        row.get::<_, Option<Vec<u8>>>(4).map_err(&get)?,
    ) {
        (Some(mount), Some(path), Some(host_path)) => Some(InputPlace {
            mount: parse(mount.parse())?,
            path: parse(VirtualPath::parse(Path::new(OsStr::from_bytes(&path))))?,
            host_path,
        }),
        _ => None,
    };
    let time = |microseconds: Option<i64>| {
        microseconds.map(|time| parse(Timestamp::from_microsecond(time))).transpose()
    };
    Ok(Input {
        number: row.get::<_, i64>(0).map_err(&get)?.unsigned_abs(),
        owner_uid: row.get(1).map_err(&get)?,
        place,
        size: row.get::<_, Option<i64>>(5).map_err(&get)?.map(i64::unsigned_abs),
        modified_at: time(row.get(6).map_err(&get)?)?,
        digest: row.get::<_, Option<[u8; 32]>>(7).map_err(&get)?.map(Digest::from_bytes),
        reason: row.get(8).map_err(&get)?,
        opened_at: parse(Timestamp::from_microsecond(row.get(9).map_err(&get)?))?,
        run: run_id(row.get(10).map_err(&get)?)?,
    })
}

fn run_id(bytes: [u8; 16]) -> Result<RunId, CatalogError> {
    parse(uuid::Uuid::from_bytes(bytes).to_string().parse())
}

fn parse<T, E: Display>(parsed: Result<T, E>) -> Result<T, CatalogError> {
    parsed.map_err(|error| CatalogError::Damaged { what: error.to_string() })
}
