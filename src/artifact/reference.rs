//! References: `ID`, `ALIAS`, each alone or with `@2`, `@latest`, `@label:NAME`.

use super::error::Error;
use crate::model::id::ArtifactId;
use crate::model::names::{Alias, Label};
use crate::storage::{Catalog, VersionRow, Which};

/// A reference as it was written.
#[derive(Debug, PartialEq, Eq)]
struct Reference {
    name: Name,
    /// Nothing when the text names no version: then it means the latest, or every one where all can be meant.
    version: Option<Version>,
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    Id(ArtifactId),
    Alias(Alias),
}

#[derive(Debug, PartialEq, Eq)]
enum Version {
    Which(Which),
    Label(Label),
}

fn parse(text: &str) -> Result<Reference, Error> {
    let (name, version) = match text.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (text, None),
    };
    let bad = || Error::BadReference { given: text.to_owned() };
    let version = match version {
        None => None,
        Some("latest") => Some(Version::Which(Which::Latest)),
        Some(version) => Some(match version.strip_prefix("label:") {
            Some(label) => Version::Label(label.parse().map_err(|_| bad())?),
            None => {
                let all_digits = version.bytes().all(|byte| byte.is_ascii_digit());
                let parsed = version.parse().ok().filter(|number| all_digits && *number > 0);
                Version::Which(Which::Number(parsed.ok_or_else(bad)?))
            }
        }),
    };
    let name = match name.parse() {
        Ok(id) => Name::Id(id),
        // What can be no name is nobody's.
        Err(_) => {
            Name::Alias(name.parse().map_err(|_| Error::NotFound { reference: text.to_owned() })?)
        }
    };
    Ok(Reference { name, version })
}

/// The artifact that a reference names, and which version where it says so.
pub(super) fn resolve(
    catalog: &dyn Catalog,
    owner: Option<u32>,
    reference: &str,
) -> Result<(ArtifactId, Option<Which>), Error> {
    let missing = || Error::NotFound { reference: reference.to_owned() };
    let Reference { name, version } = parse(reference)?;
    let id = match name {
        Name::Id(id) => id,
        Name::Alias(alias) => match catalog.life().with_alias(owner, &alias)?[..] {
            [] => return Err(missing()),
            [id] => id,
            // Root sees everybody's.
            [..] => return Err(Error::Ambiguous { alias }),
        },
    };
    let which = match version {
        None => None,
        Some(Version::Which(which)) => Some(which),
        Some(Version::Label(label)) => {
            let number = catalog.life().with_label(id, &label)?;
            Some(Which::Number(number.ok_or_else(missing)?))
        }
    };
    Ok((id, which))
}

/// The version that a reference names; the latest where it names none.
pub(super) fn find(
    catalog: &dyn Catalog,
    owner: Option<u32>,
    reference: &str,
) -> Result<VersionRow, Error> {
    let (id, which) = resolve(catalog, owner, reference)?;
    catalog
        .find(owner, id, which.unwrap_or(Which::Latest))?
        .ok_or_else(|| Error::NotFound { reference: reference.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_bad_ones_told_apart() {
        let id = ArtifactId::generate();
        let version = |text: String| parse(&text).expect("legal").version;
        for name in [id.to_string(), "report_001".to_owned()] {
            assert_eq!(version(name.clone()), None);
            let which = |which| Some(Version::Which(which));
            assert_eq!(version(format!("{name}@latest")), which(Which::Latest));
            assert_eq!(version(format!("{name}@12")), which(Which::Number(12)));
            let label = Version::Label("v3".parse().expect("legal"));
            assert_eq!(version(format!("{name}@label:v3")), Some(label));
            for bad in
                ["@", "@0", "@+1", "@x", "@1@2", "@label:", "@label:a b", "@99999999999999999999"]
            {
                let error = parse(&format!("{name}{bad}")).expect_err("refused");
                assert!(matches!(error, Error::BadReference { .. }), "{bad}: {error}");
            }
        }
        assert_eq!(parse(&id.to_string()).expect("legal").name, Name::Id(id));
        assert!(matches!(parse("a/b"), Err(Error::NotFound { .. })));
    }
}
